// Package modelstore keeps the versions of models in a directory or any object store. Its main type is [Store]:
//
//	<name>/<version>/saved_model.pb
//	                 variables/…
//	                 model.yaml         written last; `files` in it is the digest of all others
//
// What it promises:
//
//  1. A version of an object store exists once its model.yaml is there, which names a digest; what it consists of is loaded only
//     where that is the digest of the files that came. So a version that is half there is never loaded.
//  2. [Store.Publish] adds the next version, whole or not at all, and two publishers never share one.
//  3. The copies on this machine are bounded, and one that is not what it was is fetched again.
//  4. A version does not change: what is listed again has the contract that it had, by its address.
//
// A directory (file:) is used as it is, without copies. The object stores of clouds are known to a program that imports package
// clouds; mem: is known to all, for tests.
package modelstore
