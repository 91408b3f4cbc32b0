package clients

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// curl gives both outputs; what it says of the connection is in the second.
func curl(arguments ...string) (said, told string, err error) {
	command := exec.Command("curl", append([]string{"--silent", "--show-error", "--verbose", "--max-time", "30"}, arguments...)...)
	var out, complained strings.Builder
	command.Stdout, command.Stderr = &out, &complained
	err = command.Run()
	return out.String(), complained.String(), err
}

func TestCurlSpeaksEveryVersion(t *testing.T) {
	listener := listen(t)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "websocket" {
			greet(w)
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d bytes", r.Method, r.URL.Path, len(body))
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	world.serve(t, "httproute", "curl", backend("curl", "TCP", "", listener.Addr())+`
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: curl}
spec:
  parentRefs: [{name: clients, sectionName: plain}, {name: clients, sectionName: secure}]
  hostnames: [`+name+`]
  rules: [{backendRefs: [{name: curl, port: 80}]}]
`)
	plain := fmt.Sprintf("http://%s:%d", name, plainPort)
	secure := fmt.Sprintf("https://%s:%d", name, securePort)
	ask := func(arguments ...string) (said, told string, err error) {
		resolve := func(port int) string { return name + ":" + strconv.Itoa(port) + ":" + world.host }
		common := []string{"--cacert", authority.file, "--resolve", resolve(plainPort), "--resolve", resolve(securePort)}
		return curl(append(common, arguments...)...)
	}
	long := filepath.Join(t.TempDir(), "long")
	require.NoError(t, os.WriteFile(long, make([]byte, longBody), 0o644))
	for _, way := range []struct {
		url, version, tls string
		options           []string
	}{
		{plain, "1.1", "", []string{"--http1.1"}},
		{plain, "1.1", "", []string{"--http1.0"}},
		{plain, "2", "", []string{"--http2-prior-knowledge"}},
		{secure, "1.1", "TLSv1.3", []string{"--http1.1"}},
		{secure, "2", "TLSv1.3", []string{"--http2"}},
		{secure, "1.1", "TLSv1.2", []string{"--http1.1", "--tls-max", "1.2"}},
		{secure, "2", "TLSv1.2", []string{"--http2", "--tls-max", "1.2"}},
	} {
		t.Run(strings.TrimSpace(strings.Join(way.options, " ")+" "+way.tls), func(t *testing.T) {
			options := append([]string{"--write-out", " %{http_version} %{http_code}"}, way.options...)
			said, told, err := ask(append(options, way.url+"/a")...)
			require.NoError(t, err, told)
			require.Equal(t, "GET /a 0 bytes "+way.version+" 200", said)
			if way.tls != "" {
				require.Contains(t, told, "SSL connection using "+way.tls)
			}
			// Longer than any buffer on the way, and one after the other on one connection where the version can.
			sent := []string{"--data-binary", "@" + long, "--write-out", " %{http_version} %{num_connects};", way.url + "/b"}
			wanted := fmt.Sprintf("POST /b %d bytes %s 1;", longBody, way.version)
			switch way.options[0] {
			case "--http2-prior-knowledge":
				// curl 7.88 cannot use such a connection again, whoever serves it ("Error in the HTTP2 framing layer").
			case "--http1.0":
				sent, wanted = append(sent, way.url+"/c"), wanted+fmt.Sprintf("POST /c %d bytes %s 1;", longBody, way.version)
			default:
				sent, wanted = append(sent, way.url+"/c"), wanted+fmt.Sprintf("POST /c %d bytes %s 0;", longBody, way.version)
			}
			said, told, err = ask(append(way.options, sent...)...)
			require.NoError(t, err, told)
			require.Equal(t, wanted, said)
		})
	}
	t.Run("TLS 1.1 is refused", func(t *testing.T) {
		_, told, err := ask("--tls-max", "1.1", "--ciphers", "DEFAULT:@SECLEVEL=0", secure+"/")
		require.Error(t, err)
		require.Regexp(t, "TLS alert, (handshake failure|protocol version)", told)
	})
	t.Run("a WebSocket upgrade", func(t *testing.T) {
		for _, url := range []string{plain, secure} {
			said, told, err := ask("--http1.1", "--include", "--no-buffer", "--header", "Connection: Upgrade",
				"--header", "Upgrade: websocket", "--header", "Sec-WebSocket-Version: 13",
				"--header", "Sec-WebSocket-Key: "+sampleKey, url+"/")
			require.NoError(t, err, told)
			head, frames, _ := strings.Cut(said, "\r\n\r\n")
			require.True(t, strings.HasPrefix(head, "HTTP/1.1 101 "), said)
			require.Contains(t, strings.ToLower(head), "sec-websocket-accept: "+strings.ToLower(sampleAccept))
			require.Equal(t, greeting, frames)
		}
	})
}

// longBody is longer than any buffer on the way.
const longBody = 3 << 20

// Source: RFC 6455 section 1.3.
const (
	sampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// greeting is a text frame and one that closes.
const greeting = "\x81\x05hello\x88\x02\x03\xe8"

// greet accepts the upgrade, greets and ends.
func greet(w http.ResponseWriter) {
	connection, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer connection.Close()
	fmt.Fprintf(buffered, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n%s", sampleAccept, greeting)
	_ = buffered.Flush()
}
