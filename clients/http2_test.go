package clients

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// page answers every path with a body that is there for those cases that hold its window shut.
func page(t *testing.T) {
	listener := listen(t)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			_, _ = io.WriteString(w, strings.Repeat("x", 100))
		}
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	world.serve(t, "httproute", "page", backend("page", "TCP", "", listener.Addr())+`
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: page}
spec:
  parentRefs: [{name: clients, sectionName: plain}, {name: clients, sectionName: secure}]
  rules: [{backendRefs: [{name: page, port: 80}]}]
`)
}

// summary is h2spec's last line.
var summary = regexp.MustCompile(`(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed`)

func TestHTTP2IsSpokenAsItsSpecificationSays(t *testing.T) {
	page(t)
	for _, listener := range []struct {
		name    string
		port    int
		options []string
	}{
		{"plain", plainPort, nil},
		{"TLS", securePort, []string{"--tls", "--insecure"}},
	} {
		t.Run(listener.name, func(t *testing.T) {
			options := []string{"--host", world.host, "--port", strconv.Itoa(listener.port), "--timeout", "10"}
			output, err := exec.Command(*h2spec, append(options, listener.options...)...).CombinedOutput()
			require.NoError(t, err, "%s", output)
			counts := summary.FindStringSubmatch(string(output))
			require.NotNil(t, counts, "%s", output)
			tests, _ := strconv.Atoi(counts[1])
			require.Greater(t, tests, 140, "the whole of its cases")
			require.Equal(t, "0", counts[4], "%s", output)
			fmt.Println("    h2spec,", listener.name+":", counts[0])
		})
	}
}
