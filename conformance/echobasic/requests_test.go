package echobasic

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	pb "sigs.k8s.io/gateway-api/conformance/echo-basic/grpcechoserver"
)

func modes(files *files) []mode {
	over := func(key string) map[string]string {
		return map[string]string{"TLS_SERVER_CERT": mounted + "/crt", key: mounted + "/key"}
	}
	with := func(env map[string]string, name, value string) map[string]string {
		env[name] = value
		return env
	}
	return []mode{
		{
			name: "http", env: map[string]string{}, ports: []string{"3000", "3001"},
			ask: func(t *testing.T, address string) []string {
				return slices.Concat(askRaw(t, address+":3000"), askH2C(t, address), askWebSocket(t, address+":3000"))
			},
		},
		{
			name: "https", ports: []string{"3000", "3001", "8443"},
			env: with(over("TLS_SERVER_PRIVKEY"), "TLS_CLIENT_CACERTS", mounted+"/ca.crt"),
			ask: func(t *testing.T, address string) []string { return askHTTPS(t, address+":8443", files) },
		},
		{
			name: "grpc", ports: []string{"3000", "8443"},
			env: with(over("TLS_SERVER_PRIV_KEY"), "GRPC_ECHO_SERVER", "1"),
			ask: askGRPC,
		},
		{
			name: "tcp", ports: []string{"3000", "8443"},
			env: with(over("TLS_SERVER_PRIV_KEY"), "TCP_ECHO_SERVER", "1"),
			ask: askLines,
		},
		{name: "udp", env: map[string]string{"UDP_ECHO_SERVER": "1"}, ask: askDatagrams},
	}
}

// rawRequests are sent byte for byte, each on a connection of its own.
var rawRequests = []string{
	"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
	"GET / HTTP/1.0\r\n\r\n",
	"GET /a/b?c=d&e=%20f HTTP/1.1\r\nHost: a.example:8080\r\nUser-Agent: x\r\n\r\n",
	"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
	"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
	"PUT /p HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
	"HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n",
	"DELETE /d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
	"OPTIONS /o HTTP/1.1\r\nHost: a\r\nOrigin: https://b\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nx-many: 1\r\nX-Other: o\r\nX-MANY: 2\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nX-Html: <a href=\"x\">&'\r\nX-Empty:\r\n\r\n",
	"GET /&' HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nX-Echo-Set-Header: One:1, Two: 2,Content-Type:text/html\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nX-Echo-Set-Header: One:1,One:2\r\nX-Echo-Set-Header: One: 3, , Alone\r\n\r\n",
	"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /health/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /status/200 HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /status/204 HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /status/404 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /status/503 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
	"GET /status/503?x HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /status/5033 HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /status/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /status?a=b HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET //status/503 HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /a//b HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /a/../b?c HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /a/./b/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /retry/x HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /retry/x?uuid=1 HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /retry/x?uuid=1&succeedAfter=2&responseCode=503 HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /retry/x?uuid=1&succeedAfter=2&responseCode=429&delayRetry=1ms HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /retry/x?uuid=1&succeedAfter=2&responseCode=503 HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /retry/x?uuid=2&succeedAfter=1 HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /retry/x?uuid=2&succeedAfter=1 HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /retry/x?uuid=3&succeedAfter=1&delayRetry=soon HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /retry/x?uuid=4&succeedAfter=-1 HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /slow?delay=20ms HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /slow?delay=ten HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /slow?delay=10 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /a/../b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
	"GET /status?a=b&c HTTP/1.1\r\nHost: a\r\n\r\n",
}

// refused are answers written past the HTTP server, of which the status alone is compared.
var refused = []string{
	"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
	"POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
}

func askRaw(t *testing.T, address string) []string {
	var answers []string
	for _, request := range rawRequests {
		line, _, _ := strings.Cut(request, "\r\n")
		answers = append(answers, line+"\n"+raw(t, address, request))
	}
	for _, request := range refused {
		status, _, _ := strings.Cut(raw(t, address, request), " length")
		answers = append(answers, status)
	}
	return answers
}

func raw(t *testing.T, address, request string) string {
	connection, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer connection.Close()
	require.NoError(t, connection.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(connection, request)
	require.NoError(t, err)
	method, _, _ := strings.Cut(request, " ")
	reader := bufio.NewReader(connection)
	response, err := http.ReadResponse(reader, &http.Request{Method: method})
	if errors.Is(err, syscall.ECONNRESET) {
		return "connection reset"
	}
	require.NoError(t, err, request)
	return told(t, response)
}

// told is what matters of a response, as text.
func told(t *testing.T, response *http.Response) string {
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	var out strings.Builder
	fmt.Fprintf(&out, "%s %d length %d\n", response.Proto, response.StatusCode, response.ContentLength)
	response.Header.Del("Date")
	names := []string{}
	for name := range response.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&out, "%s: %q\n", name, response.Header[name])
	}
	fmt.Fprintf(&out, "%s\ntrailers %v", body, response.Trailer)
	return out.String()
}

// request is one that Go's client sends.
type request struct {
	method, path, body string
	header             http.Header
}

var requests = []request{
	{"GET", "/", "", nil},
	{"POST", "/p?q=r", "hello", http.Header{"X-Echo-Set-Header": {"A:b"}, "X-Two": {"1", "2"}}},
	{"GET", "/status/418", "", nil},
	{"GET", "/health", "", nil},
	{"GET", "/retry/a?uuid=h2&succeedAfter=1", "", nil},
	{"GET", "/retry/a?uuid=h2&succeedAfter=1", "", nil},
	{"HEAD", "/", "", nil},
}

func askAll(t *testing.T, transport *http.Transport, base string) []string {
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	var answers []string
	for _, asked := range requests {
		ask, err := http.NewRequestWithContext(t.Context(), asked.method, base+asked.path, strings.NewReader(asked.body))
		require.NoError(t, err)
		ask.Host = "b.example"
		if asked.header != nil {
			ask.Header = asked.header.Clone()
		}
		answer := asked.method + " " + asked.path + "\n"
		response, err := client.Do(ask)
		switch {
		case err == nil:
			answer += told(t, response)
		case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
			answer += "connection ended"
		default:
			require.NoError(t, err, asked.path)
		}
		answers = append(answers, answer)
	}
	return answers
}

func askH2C(t *testing.T, address string) []string {
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	answers := askAll(t, &http.Transport{Protocols: h2c}, "http://"+address+":3001")
	for _, plain := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /x HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n",
	} {
		answers = append(answers, raw(t, address+":3001", plain))
	}
	return answers
}

func askWebSocket(t *testing.T, address string) []string {
	connection, err := websocket.Dial("ws://"+address+"/ws", "", "http://"+address)
	require.NoError(t, err)
	defer connection.Close()
	require.NoError(t, connection.SetDeadline(time.Now().Add(patience)))
	var answers []string
	for _, sent := range []any{"text", []byte{0, 1, 0xff}, strings.Repeat("long", 500)} {
		require.NoError(t, websocket.Message.Send(connection, sent))
		var received []byte
		require.NoError(t, websocket.Message.Receive(connection, &received))
		answers = append(answers, fmt.Sprintf("websocket %d %q", connection.PayloadType, received))
	}
	return answers
}

func askHTTPS(t *testing.T, address string, files *files) []string {
	var answers []string
	for _, minor := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, shown := range [][]tls.Certificate{nil, {files.client}} {
			for _, protocol := range []string{"h2", "http/1.1"} {
				transport := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: clientTLS(minor, shown)}
				transport.Protocols.SetHTTP2(protocol == "h2")
				transport.Protocols.SetHTTP1(protocol == "http/1.1")
				answers = append(answers, askAll(t, transport, "https://"+address)...)
			}
		}
	}
	return answers
}

// clientTLS trusts anybody, because what is looked at is what the server saw. One curve and one suite, for which is
// chosen of several is each server's own affair.
func clientTLS(version uint16, shown []tls.Certificate) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true,
		ServerName:         "abc.example.com",
		MinVersion:         version,
		MaxVersion:         version,
		Certificates:       shown,
		CurvePreferences:   []tls.CurveID{tls.CurveP256},
		CipherSuites:       []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384},
	}
}

// suite matters with TLS 1.3 only, where a client cannot choose it.
func withoutSuite(text string) string {
	for _, suite := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
		text = strings.ReplaceAll(text, suite, "a suite of TLS 1.3")
	}
	return text
}

func askGRPC(t *testing.T, address string) []string {
	var answers []string
	overTLS := credentials.NewTLS(clientTLS(tls.VersionTLS12, nil))
	for port, with := range map[string]credentials.TransportCredentials{"3000": insecure.NewCredentials(), "8443": overTLS} {
		connection, err := grpc.NewClient("passthrough:///"+address+":"+port, grpc.WithTransportCredentials(with),
			grpc.WithAuthority("abc.example.com"), grpc.WithUserAgent("test"))
		require.NoError(t, err)
		for _, method := range []string{
			pb.GrpcEcho_Echo_FullMethodName, pb.GrpcEcho_EchoTwo_FullMethodName, pb.GrpcEcho_EchoThree_FullMethodName,
			"/" + pb.GrpcEcho_ServiceDesc.ServiceName + "/Other", "/other.Service/Echo",
		} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			ctx = metadata.AppendToOutgoingContext(ctx, "x-one", "1", "x-one", "2", "x-empty", "")
			response := &pb.EchoResponse{}
			err := connection.Invoke(ctx, method, &pb.EchoRequest{}, response)
			cancel()
			if assertions := response.GetAssertions(); assertions != nil {
				slices.SortStableFunc(assertions.Headers, func(a, b *pb.Header) int { return strings.Compare(a.Key, b.Key) })
			}
			text, marshalled := protojson.Marshal(response)
			require.NoError(t, marshalled)
			compact := new(bytes.Buffer)
			require.NoError(t, compactJSON(compact, text))
			answers = append(answers, fmt.Sprintf("%s %s %v %v", port, method, status.Convert(err), compact))
		}
		connection.Close()
	}
	slices.Sort(answers)
	// What is no gRPC.
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: h2c}
	defer transport.CloseIdleConnections()
	for _, asked := range []request{
		{"POST", "/x", "", http.Header{"Content-Type": {"application/json"}}},
		{"GET", "/x", "", http.Header{"Content-Type": {"application/grpc"}}},
	} {
		ask, err := http.NewRequest(asked.method, "http://"+address+":3000"+asked.path, nil)
		require.NoError(t, err)
		ask.Header = asked.header
		response, err := transport.RoundTrip(ask)
		require.NoError(t, err)
		answers = append(answers, told(t, response))
	}
	return answers
}

func askLines(t *testing.T, address string) []string {
	plain, err := net.Dial("tcp", address+":3000")
	require.NoError(t, err)
	answers := converse(t, plain)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		secure, err := tls.Dial("tcp", address+":8443", clientTLS(version, nil))
		require.NoError(t, err)
		for _, answer := range converse(t, secure) {
			answers = append(answers, withoutSuite(answer))
		}
	}
	return answers
}

// converse reads the greeting first: the server speaks before the client does.
func converse(t *testing.T, connection net.Conn) []string {
	defer connection.Close()
	require.NoError(t, connection.SetDeadline(time.Now().Add(patience)))
	reader := bufio.NewReader(connection)
	greeting, err := reader.ReadString('\n')
	require.NoError(t, err)
	answers := []string{greeting}
	for _, line := range []string{"PING\n", "nothing\nTEST\r\n", "IS_TLS\n", "\nPING\n"} {
		_, err := io.WriteString(connection, line)
		require.NoError(t, err)
		answer, err := reader.ReadString('\n')
		require.NoError(t, err)
		answers = append(answers, line+answer)
	}
	return answers
}

func askDatagrams(t *testing.T, address string) []string {
	connection, err := net.Dial("udp", address+":8080")
	require.NoError(t, err)
	defer connection.Close()
	var answers []string
	for _, datagram := range []string{"hello", "a<b>&\"c\"\n", "", strings.Repeat("x", 1500), "ü"} {
		answers = append(answers, exchange(t, connection, datagram))
	}
	return answers
}

// exchange sends a datagram until it is answered: nobody says when a UDP server listens.
func exchange(t *testing.T, connection net.Conn, datagram string) string {
	deadline := time.Now().Add(patience)
	buffer := make([]byte, 65536)
	for {
		_, sent := connection.Write([]byte(datagram))
		require.NoError(t, connection.SetReadDeadline(time.Now().Add(time.Second)))
		length, err := connection.Read(buffer)
		if sent == nil && err == nil {
			return string(buffer[:length])
		}
		require.True(t, time.Now().Before(deadline), "%v %v", sent, err)
		time.Sleep(5 * time.Millisecond)
	}
}

// compactJSON undoes the spaces that protojson varies on purpose.
func compactJSON(out *bytes.Buffer, text []byte) error { return json.Compact(out, text) }
