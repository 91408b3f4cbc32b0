//go:build tools

// Programs of others that are built from here.
package clients

// The last release of h2spec that the module system serves: those after it name a module without the /v2 that their
// versions ask for.
import _ "github.com/summerwind/h2spec/cmd/h2spec"
