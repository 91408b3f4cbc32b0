//go:build tools

// Programs of the suite's own module that are built from here.
package conformance

import _ "sigs.k8s.io/gateway-api/conformance/echo-basic"
