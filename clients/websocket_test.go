package clients

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

const (
	// longestMessage is above every message of these tests and of Autobahn's.
	longestMessage = 64 << 20
	// protocol is the one that the server speaks.
	protocol = "echo.clients"
	// autobahnLimit bounds Autobahn's run; that of all cases, whose payload goes through Python, takes some ten minutes.
	autobahnLimit = 60 * time.Minute
)

var upgrader = websocket.Upgrader{
	EnableCompression: true,
	Subprotocols:      []string{protocol},
	CheckOrigin:       func(*http.Request) bool { return true },
}

// echo sends each message back as it came, and closes as it is closed. `/bye` closes by itself, `/gone` without a word.
func echo(w http.ResponseWriter, r *http.Request) {
	connection, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer connection.Close()
	connection.SetReadLimit(longestMessage)
	switch r.URL.Path {
	case "/websocket/bye":
		_ = connection.WriteMessage(websocket.TextMessage, []byte("last"))
		closing := websocket.FormatCloseMessage(4321, "the server's wish")
		_ = connection.WriteControl(websocket.CloseMessage, closing, time.Now().Add(patience))
	case "/websocket/gone":
		return
	}
	for {
		kind, message, err := connection.ReadMessage()
		if err != nil {
			return
		}
		if kind == websocket.TextMessage && !utf8.Valid(message) {
			closing := websocket.FormatCloseMessage(websocket.CloseInvalidFramePayloadData, "")
			_ = connection.WriteControl(websocket.CloseMessage, closing, time.Now().Add(patience))
			return
		}
		if connection.WriteMessage(kind, message) != nil {
			return
		}
	}
}

// webSockets serves the echo behind the Gateway and gives its own address.
func webSockets(t *testing.T) net.Addr {
	listener := listen(t)
	server := &http.Server{Handler: http.HandlerFunc(echo)}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	world.serve(t, "httproute", "websocket", backend("websocket", "TCP", "kubernetes.io/ws", listener.Addr())+`
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: websocket}
spec:
  parentRefs: [{name: clients, sectionName: plain}, {name: clients, sectionName: secure}]
  rules: [{matches: [{path: {value: /websocket}}], backendRefs: [{name: websocket, port: 80}]}]
`)
	return listener.Addr()
}

func TestWebSocketsPassUnchanged(t *testing.T) {
	webSockets(t)
	for _, listener := range []struct {
		name, url string
		trust     *tls.Config
	}{
		{"ws", "ws://" + world.socket(plainPort) + "/websocket", nil},
		{"wss", "wss://" + world.socket(securePort) + "/websocket", tlsConfig()},
	} {
		dial := func(t *testing.T, dialer websocket.Dialer, path string) (*websocket.Conn, *http.Response) {
			t.Helper()
			dialer.TLSClientConfig, dialer.HandshakeTimeout = listener.trust, patience
			connection, answer, err := dialer.Dial(listener.url+path, nil)
			require.NoError(t, err)
			t.Cleanup(func() { _ = connection.Close() })
			require.NoError(t, connection.SetReadDeadline(time.Now().Add(patience)))
			return connection, answer
		}
		t.Run(listener.name, func(t *testing.T) {
			t.Run("fragments are one message", func(t *testing.T) {
				// Each frame holds what the buffer does.
				connection, _ := dial(t, websocket.Dialer{WriteBufferSize: 16}, "")
				message := strings.Repeat("grüße ", 2000)
				require.NoError(t, connection.WriteMessage(websocket.TextMessage, []byte(message)))
				kind, back, err := connection.ReadMessage()
				require.NoError(t, err)
				require.Equal(t, websocket.TextMessage, kind)
				require.Equal(t, message, string(back))
			})
			t.Run("a ping between fragments is answered with what it carried", func(t *testing.T) {
				connection, _ := dial(t, websocket.Dialer{WriteBufferSize: 16}, "")
				carried, ponged := strings.Repeat("p", 125), ""
				connection.SetPongHandler(func(data string) error { ponged = data; return nil })
				writer, err := connection.NextWriter(websocket.BinaryMessage)
				require.NoError(t, err)
				first, second := bytes.Repeat([]byte{0xff, 0}, 100), bytes.Repeat([]byte{7}, 100)
				_, err = writer.Write(first)
				require.NoError(t, err)
				require.NoError(t, connection.WriteControl(websocket.PingMessage, []byte(carried), time.Now().Add(patience)))
				_, err = writer.Write(second)
				require.NoError(t, err)
				require.NoError(t, writer.Close())
				kind, back, err := connection.ReadMessage()
				require.NoError(t, err)
				require.Equal(t, websocket.BinaryMessage, kind)
				require.Equal(t, append(first, second...), back)
				require.Equal(t, carried, ponged)
			})
			t.Run("a frame of 16 MiB", func(t *testing.T) {
				connection, _ := dial(t, websocket.Dialer{WriteBufferSize: 17 << 20}, "")
				message := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
				// The echo begins only when all is there, so that both ways hold it for a while.
				require.NoError(t, connection.WriteMessage(websocket.BinaryMessage, message))
				_, back, err := connection.ReadMessage()
				require.NoError(t, err)
				require.True(t, bytes.Equal(message, back))
			})
			t.Run("compression and a subprotocol are agreed on by the ends", func(t *testing.T) {
				dialer := websocket.Dialer{EnableCompression: true, Subprotocols: []string{"other", protocol}}
				connection, answer := dial(t, dialer, "")
				require.Equal(t, protocol, connection.Subprotocol())
				require.Contains(t, answer.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate")
				message := strings.Repeat("again and ", 10_000)
				require.NoError(t, connection.WriteMessage(websocket.TextMessage, []byte(message)))
				_, back, err := connection.ReadMessage()
				require.NoError(t, err)
				require.Equal(t, message, string(back))
			})
			t.Run("close codes", func(t *testing.T) {
				for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
					connection, _ := dial(t, websocket.Dialer{}, "")
					closing := websocket.FormatCloseMessage(code, strings.Repeat("r", 123))
					require.NoError(t, connection.WriteControl(websocket.CloseMessage, closing, time.Now().Add(patience)))
					_, _, err := connection.ReadMessage()
					var closed *websocket.CloseError
					require.True(t, errors.As(err, &closed), "%d: %v", code, err)
					require.Equal(t, code, closed.Code)
				}
			})
			t.Run("the server closes", func(t *testing.T) {
				connection, _ := dial(t, websocket.Dialer{}, "/bye")
				_, last, err := connection.ReadMessage()
				require.NoError(t, err)
				require.Equal(t, "last", string(last))
				_, _, err = connection.ReadMessage()
				var closed *websocket.CloseError
				require.True(t, errors.As(err, &closed), "%v", err)
				require.Equal(t, websocket.CloseError{Code: 4321, Text: "the server's wish"}, *closed)
			})
			t.Run("the server ends without a word", func(t *testing.T) {
				connection, _ := dial(t, websocket.Dialer{}, "/gone")
				_, _, err := connection.ReadMessage()
				require.True(t, websocket.IsCloseError(err, websocket.CloseAbnormalClosure), "%v", err)
			})
		})
	}
}

// result is how Autobahn tells the end of a case.
type result struct {
	Behavior      string `json:"behavior"`
	BehaviorClose string `json:"behaviorClose"`
}

// TestAutobahn runs the fuzzing client through both listeners and straight to the server: no case may fail, and each that is
// not about payload has to end through the gateway as it does without it.
func TestAutobahn(t *testing.T) {
	if *autobahn == "" {
		t.Skip("-autobahn names no Python 2.7 with the suite")
	}
	straight := webSockets(t)
	folder := t.TempDir()
	// Throughput and compression: many minutes of the suite's own arithmetic, and nothing but payload for a gateway.
	payload := []string{"9.*", "12.*", "13.*"}
	excluded := payload
	if *all {
		// One listener gets them.
		excluded = []string{}
	}
	server := func(agent, url string) map[string]any { return map[string]any{"agent": agent, "url": url} }
	told, err := json.Marshal(map[string]any{
		"outdir": folder,
		"servers": []any{
			server("straight", "ws://"+straight.String()+"/websocket"),
			server("ws", "ws://"+world.socket(plainPort)+"/websocket"),
			server("wss", "wss://"+world.socket(securePort)+"/websocket"),
		},
		"cases":               []string{"*"},
		"exclude-cases":       excluded,
		"exclude-agent-cases": map[string]any{"straight": payload, "wss": payload},
	})
	require.NoError(t, err)
	specification := filepath.Join(folder, "specification.json")
	require.NoError(t, os.WriteFile(specification, told, 0o644))
	start := fmt.Sprintf("import site, sys; site.addsitedir(%q); sys.path.insert(0, %[1]q); "+
		"from autobahntestsuite.wstest import run; run()", *packages)
	command := exec.Command(*autobahn, "-c", start, "--mode", "fuzzingclient", "--spec", specification)
	command.Dir = folder
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	late := time.AfterFunc(autobahnLimit, func() { _ = command.Process.Kill() })
	defer late.Stop()
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)
	text, err := os.ReadFile(filepath.Join(folder, "index.json"))
	require.NoError(t, err, "%s", output)
	results := map[string]map[string]result{}
	require.NoError(t, json.Unmarshal(text, &results))
	for _, agent := range []string{"ws", "wss"} {
		require.Greater(t, len(results[agent]), 240, "the suite's cases ran")
		require.Greater(t, len(results["straight"]), 240, "the suite's cases ran")
		ends := map[string]int{}
		for number, end := range results["straight"] {
			require.Equal(t, end, results[agent][number], "%s: case %s beside the same without a gateway", agent, number)
		}
		for number, end := range results[agent] {
			ends[end.Behavior]++
			for _, behavior := range []string{end.Behavior, end.BehaviorClose} {
				require.Contains(t, []string{"OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"}, behavior, "%s: case %s", agent, number)
			}
		}
		fmt.Println("    Autobahn,", agent+":", len(results[agent]), "cases", ends)
	}
}
