package messages

import _ "embed" // for the document

// OpenAPI is the description of the REST calls as it is generated (OpenAPI 2, JSON).
//
//go:embed openapi.swagger.json
var OpenAPI []byte
