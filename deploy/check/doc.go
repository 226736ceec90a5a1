// Package check checks what can only be run where there is a container engine or a Kubernetes cluster: the Dockerfiles, the
// compose file and the Helm chart of deploy. It has no code but tests, and is a module of its own, so that nothing
// that it needs is a requirement of the product.
//
//   - [TestNodeImage] carries the steps of the node's Dockerfile out, in overlays of this machine's root, and runs the node in the root
//     that they make: as its user, read-only but for the volumes.
//   - The Dockerfiles are linted with hadolint, where the environment says where it is, and by rules of our own.
//   - The compose file is loaded strictly by the library that compose itself is made of.
//   - The chart is linted and rendered by Helm's own library; what comes out is compared with golden files, decoded strictly
//     into the types of Kubernetes, and validated against its schemas.
package check
