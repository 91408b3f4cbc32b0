package clients

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

const (
	serverRole = "grpc-server"
	clientRole = "grpc-client"
	// bothHost is that of the route to both servers, oneHost of the one that matches one service alone.
	bothHost, oneHost = "both.example", "one.example"
	// callDeadline bounds each case.
	callDeadline = 60 * time.Second
)

// cases are those of gRPC's interoperability that need no Google account.
var cases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response", "status_code_and_message",
	"special_status_message", "unimplemented_method", "unimplemented_service", "custom_metadata",
}

// play is what a process of ours does under another role.
func play(as string, arguments []string) {
	var err error
	switch as {
	case serverRole:
		err = serveGRPC()
	case clientRole:
		err = callGRPC(arguments)
	default:
		err = fmt.Errorf("no role %q", as)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serveGRPC is the test server of grpc-go; it tells its address, and each call by a line.
func serveGRPC() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	unary := func(c context.Context, q any, i *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		fmt.Println("call", i.FullMethod)
		return next(c, q)
	}
	stream := func(server any, s grpc.ServerStream, i *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		fmt.Println("call", i.FullMethod)
		return next(server, s)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream))
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	fmt.Println("serving on", listener.Addr())
	return server.Serve(listener)
}

// callGRPC runs a case as often as is said, one after the other over one connection; a case that fails ends the process.
// Arguments: the socket, the certificate's authority or nothing, the host, then the cases.
func callGRPC(arguments []string) error {
	socket, file, host, cases := arguments[0], arguments[1], arguments[2], arguments[3:]
	trust := insecure.NewCredentials()
	if file != "" {
		var err error
		if trust, err = credentials.NewClientTLSFromFile(file, host); err != nil {
			return err
		}
	}
	connection, err := grpc.NewClient("passthrough:///"+socket, grpc.WithTransportCredentials(trust), grpc.WithAuthority(host))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), callDeadline)
	defer cancel()
	for _, name := range cases {
		if err := one(ctx, connection, name); err != nil {
			return err
		}
	}
	fmt.Println("all done")
	return nil
}

func one(ctx context.Context, connection *grpc.ClientConn, name string) error {
	client := testgrpc.NewTestServiceClient(connection)
	switch name {
	case "empty_unary":
		interop.DoEmptyUnaryCall(ctx, client)
	case "large_unary":
		interop.DoLargeUnaryCall(ctx, client)
	case "client_streaming":
		interop.DoClientStreaming(ctx, client)
	case "server_streaming":
		interop.DoServerStreaming(ctx, client)
	case "ping_pong":
		interop.DoPingPong(ctx, client)
	case "empty_stream":
		interop.DoEmptyStream(ctx, client)
	case "timeout_on_sleeping_server":
		interop.DoTimeoutOnSleepingServer(ctx, client)
	case "cancel_after_begin":
		interop.DoCancelAfterBegin(ctx, client)
	case "cancel_after_first_response":
		interop.DoCancelAfterFirstResponse(ctx, client)
	case "status_code_and_message":
		interop.DoStatusCodeAndMessage(ctx, client)
	case "special_status_message":
		interop.DoSpecialStatusMessage(ctx, client)
	case "unimplemented_method":
		interop.DoUnimplementedMethod(ctx, connection)
	case "unimplemented_service":
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(connection))
	case "custom_metadata":
		interop.DoCustomMetadata(ctx, client)
	default:
		return fmt.Errorf("no case %q", name)
	}
	return nil
}

// grpcServer is a process of its own.
type grpcServer struct {
	address net.Addr
	calls   atomic.Int64
}

func startGRPC(t *testing.T) *grpcServer {
	command := itself(serverRole)
	command.Stderr = os.Stderr
	output, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	lines := bufio.NewReader(output)
	first, err := lines.ReadString('\n')
	require.NoError(t, err)
	said, found := strings.CutPrefix(strings.TrimSpace(first), "serving on ")
	require.True(t, found, first)
	server := &grpcServer{}
	server.address, err = net.ResolveTCPAddr("tcp", said)
	require.NoError(t, err)
	go func() {
		for {
			line, err := lines.ReadString('\n')
			if strings.HasPrefix(line, "call ") {
				server.calls.Add(1)
			}
			if err == io.EOF || err != nil {
				return
			}
		}
	}()
	return server
}

// itself is this program in a process of its own, under a role.
func itself(as string, arguments ...string) *exec.Cmd {
	command := exec.Command(os.Args[0], append([]string{"--"}, arguments...)...)
	command.Env = append(os.Environ(), role+"="+as)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return command
}

// call runs cases in a process of their own: one that fails ends its process.
func call(t *testing.T, port int, file, host string, cases ...string) {
	t.Helper()
	output, err := itself(clientRole, append([]string{world.socket(port), file, host}, cases...)...).CombinedOutput()
	require.NoError(t, err, "%s", output)
	require.Contains(t, string(output), "all done")
}

func TestGRPCInteroperates(t *testing.T) {
	first, second := startGRPC(t), startGRPC(t)
	backends := backend("grpc-1", "TCP", "kubernetes.io/h2c", first.address) + backend("grpc-2", "TCP", "kubernetes.io/h2c", second.address)
	world.serve(t, "grpcroute", "both", backends+`
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: both}
spec:
  parentRefs: [{name: clients, sectionName: grpc}, {name: clients, sectionName: grpc-secure}]
  hostnames: [`+bothHost+`]
  rules: [{backendRefs: [{name: grpc-1, port: 80, weight: 2}, {name: grpc-2, port: 80, weight: 1}]}]
`)
	world.serve(t, "grpcroute", "one", `
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: one}
spec:
  parentRefs: [{name: clients, sectionName: grpc}, {name: clients, sectionName: grpc-secure}]
  hostnames: [`+oneHost+`]
  rules:
  - matches: [{method: {service: grpc.testing.TestService}}]
    backendRefs: [{name: grpc-1, port: 80}]
`)
	for _, listener := range []struct {
		name string
		port int
		file string
	}{
		{"h2c", grpcPort, ""},
		{"TLS", grpcSecurePort, authority.file},
	} {
		t.Run(listener.name, func(t *testing.T) {
			t.Run("calls of every kind are shared as the weights say", func(t *testing.T) {
				kinds := []string{"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream"}
				var many []string
				for range 20 {
					many = append(many, kinds...)
				}
				before := [2]int64{first.calls.Load(), second.calls.Load()}
				call(t, listener.port, listener.file, bothHost, many...)
				eventually(t, "120 calls are told", func() error {
					return equal(first.calls.Load()+second.calls.Load()-before[0]-before[1], int64(len(many)))
				})
				require.InDelta(t, 80, first.calls.Load()-before[0], 1)
			})
			for _, name := range cases {
				t.Run(name, func(t *testing.T) {
					// Often enough to come to both servers.
					call(t, listener.port, listener.file, bothHost, name, name, name)
				})
			}
			t.Run("a service that no rule matches is unimplemented", func(t *testing.T) {
				before := first.calls.Load()
				call(t, listener.port, listener.file, oneHost, "unimplemented_service", "empty_unary")
				eventually(t, "only the other one arrived", func() error { return equal(first.calls.Load()-before, 1) })
			})
		})
	}
}

func equal(a, b int64) error {
	if a != b {
		return fmt.Errorf("%d, not %d", a, b)
	}
	return nil
}
