package clients

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// endPatience is what a sandbox that was asked to end gets.
const endPatience = 20 * time.Second

// sandbox is a running `weir sandbox` with a Gateway.
type sandbox struct {
	folder, kubeconfig string
	command            *exec.Cmd
	// host is the Gateway's address.
	host string
}

// startSandbox returns when the sandbox says that it is ready.
func startSandbox(folder string) (*sandbox, error) {
	s := &sandbox{folder: folder, kubeconfig: filepath.Join(folder, "kubeconfig")}
	s.command = exec.Command(*weir, "sandbox", "--kubeconfig", s.kubeconfig)
	s.command.Stderr = os.Stderr
	s.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := s.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.command.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "export KUBECONFIG=") {
			// So that the sandbox can go on writing.
			go func() { _, _ = io.Copy(io.Discard, output) }()
			return s, nil
		}
	}
	return nil, errors.Join(errors.New("it ended at its start"), s.command.Wait())
}

func (s *sandbox) end() {
	_ = s.command.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(endPatience, func() { _ = s.command.Process.Kill() })
	defer late.Stop()
	_ = s.command.Wait()
}

// kubectl gives the output of the real one.
func (s *sandbox) kubectl(input string, arguments ...string) (string, error) {
	command := exec.Command("kubectl", append([]string{"--kubeconfig", s.kubeconfig}, arguments...)...)
	command.Stdin = strings.NewReader(input)
	output, err := command.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = fmt.Errorf("kubectl %s: %s", strings.Join(arguments, " "), failed.Stderr)
	}
	return string(output), err
}

func (s *sandbox) apply(objects string) error {
	_, err := s.kubectl(objects, "apply", "--filename=-")
	return err
}

// conditions is where Gateways and routes have them.
type conditions struct {
	Status struct {
		Addresses  []struct{ Value string }
		Conditions []condition
		Parents    []struct{ Conditions []condition }
	}
}

type condition struct{ Type, Status, Reason, Message string }

func (s *sandbox) read(kind, name string) (*conditions, error) {
	text, err := s.kubectl("", "get", kind, name, "--output=json")
	if err != nil {
		return nil, err
	}
	object := &conditions{}
	return object, json.Unmarshal([]byte(text), object)
}

// awaitGateway learns the address.
func (s *sandbox) awaitGateway() error {
	return await(func() error {
		gateway, err := s.read("gateway", "clients")
		if err != nil {
			return err
		}
		if len(gateway.Status.Addresses) == 0 || !isTrue(gateway.Status.Conditions, "Programmed") {
			return fmt.Errorf("not programmed: %+v", gateway.Status)
		}
		s.host = gateway.Status.Addresses[0].Value
		return nil
	})
}

func isTrue(conditions []condition, kind string) bool {
	for _, condition := range conditions {
		if condition.Type == kind {
			return condition.Status == "True"
		}
	}
	return false
}

// socket is one of the Gateway's.
func (s *sandbox) socket(port int) string { return net.JoinHostPort(s.host, strconv.Itoa(port)) }

// serve applies a route with everything behind it, and waits until it answers.
func (s *sandbox) serve(t *testing.T, kind, name, objects string) {
	t.Helper()
	require.NoError(t, s.apply(objects))
	eventually(t, kind+" "+name, func() error {
		route, err := s.read(kind, name)
		if err != nil {
			return err
		}
		for _, parent := range route.Status.Parents {
			if isTrue(parent.Conditions, "Accepted") && isTrue(parent.Conditions, "ResolvedRefs") {
				return nil
			}
		}
		return fmt.Errorf("not accepted: %+v", route.Status.Parents)
	})
}

// backend is a Service without a selector, and where it is.
func backend(name, transport, appProtocol string, address net.Addr) string {
	host, port, _ := net.SplitHostPort(address.String())
	if appProtocol != "" {
		appProtocol = ", appProtocol: " + appProtocol
	}
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {ports: [{port: 80, protocol: %[2]s%[3]s}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-1, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{port: %[5]s, protocol: %[2]s%[3]s}]
endpoints: [{addresses: ["%[4]s"], conditions: {ready: true}}]
`, name, transport, appProtocol, host, port)
}

// listen gives a socket on loopback.
func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return listener
}
