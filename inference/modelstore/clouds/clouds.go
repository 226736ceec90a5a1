// Package clouds has package modelstore know the object stores of Amazon (s3:), Google (gs:) and Microsoft (azblob:). What
// links it grows by their libraries, so that only the node does.
package clouds

import (
	// Each registers its scheme.
	_ "gocloud.dev/blob/azureblob"
	_ "gocloud.dev/blob/gcsblob"
	_ "gocloud.dev/blob/s3blob"
)
