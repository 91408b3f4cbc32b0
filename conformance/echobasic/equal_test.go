// Package echobasic holds Weir's echo pods equal to the program that they stand in for, request by request.
//
// Everything runs in a network namespace of its own, because the program listens on all addresses. First the program of
// the suite's own module answers, then a pod with the same environment in a sandbox; the answers are compared.
package echobasic

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

var (
	program = flag.String("echo-basic", "", "the program of the suite's module, built")
	weir    = flag.String("weir", "", "the weir binary")
)

const (
	// inside marks the process that runs in the namespace.
	inside = "WEIR_ECHO_BASIC_INSIDE"
	// patience bounds every wait.
	patience = 30 * time.Second
	secret   = "files"
	mounted  = "/etc/files"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *program == "" || *weir == "" {
		fmt.Fprintln(os.Stderr, "-echo-basic and -weir say which programs are compared")
		os.Exit(2)
	}
	if os.Getenv(inside) == "" {
		os.Exit(inNamespace())
	}
	if err := loopbackUp(); err != nil {
		fmt.Fprintln(os.Stderr, "loopback:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// inNamespace runs this very program in new user and network namespaces.
func inNamespace() int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	command := exec.Command(self, os.Args[1:]...)
	command.Env = append(os.Environ(), inside+"=1")
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := command.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "in namespaces of its own:", err)
		return 1
	}
	return 0
}

// mode is one way to run the program.
type mode struct {
	name string
	// env is the program's environment.
	env map[string]string
	// ports are those that it listens on, of TCP.
	ports []string
	// ask sends the requests to an address and tells the answers.
	ask func(t *testing.T, address string) []string
}

// identity is the part of the environment that all modes share.
var identity = map[string]string{
	"NAMESPACE": "default", "INGRESS_NAME": "in<g>ress", "SERVICE_NAME": "ser&vice", "POD_NAME": "the-pod",
}

func TestTheStandInAnswersAsTheProgram(t *testing.T) {
	files := makeFiles(t)
	cluster := startSandbox(t, files)
	for _, mode := range modes(files) {
		t.Run(mode.name, func(t *testing.T) {
			env := map[string]string{}
			for _, part := range []map[string]string{identity, mode.env} {
				for name, value := range part {
					env[name] = value
				}
			}
			theirs, theirLog := answersOfProgram(t, mode, env, files)
			ours, ourLog := cluster.answersOfPod(t, mode, env)
			require.NotEmpty(t, theirs)
			if difference := cmp.Diff(theirs, ours); difference != "" {
				t.Errorf("answers (- the program, + the stand-in):\n%s", difference)
			}
			if difference := cmp.Diff(requestLines(theirLog), requestLines(ourLog)); difference != "" {
				t.Errorf("log (- the program, + the stand-in):\n%s", difference)
			}
		})
	}
}

// answersOfProgram runs the official program for as long as the requests take.
func answersOfProgram(t *testing.T, mode mode, env map[string]string, files *files) (answers []string, log string) {
	command := exec.Command(*program)
	var output strings.Builder
	command.Stdout, command.Stderr = &output, &output
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	for name, value := range env {
		command.Env = append(command.Env, name+"="+strings.ReplaceAll(value, mounted, files.folder))
	}
	require.NoError(t, command.Start())
	defer func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		log = output.String()
	}()
	waitForPorts(t, "127.0.0.1", mode.ports)
	return mode.ask(t, "127.0.0.1"), ""
}

// cluster is a running sandbox.
type cluster struct {
	client kubernetes.Interface
}

func startSandbox(t *testing.T, files *files) *cluster {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	command := exec.Command(*weir, "sandbox", "--kubeconfig", kubeconfig)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait()
	})
	lines := bufio.NewScanner(output)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "export KUBECONFIG=") {
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	require.NoError(t, err)
	config.ContentType = "application/json"
	client, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	_, err = client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secret},
		StringData: files.texts,
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	return &cluster{client}
}

// answersOfPod runs a pod of the image for as long as the requests take.
func (c *cluster) answersOfPod(t *testing.T, mode mode, env map[string]string) ([]string, string) {
	ctx := t.Context()
	pods := c.client.CoreV1().Pods("default")
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: mode.name},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name:         "echo",
				Image:        "registry.k8s.io/gateway-api/echo-basic:v1.6.1",
				VolumeMounts: []corev1.VolumeMount{{Name: secret, MountPath: mounted}},
			}},
			Volumes: []corev1.Volume{{Name: secret, VolumeSource: corev1.VolumeSource{
				Secret: &corev1.SecretVolumeSource{SecretName: secret},
			}}},
		},
	}
	for name, value := range env {
		variable := corev1.EnvVar{Name: name, Value: value}
		pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, variable)
	}
	_, err := pods.Create(ctx, pod, metav1.CreateOptions{})
	require.NoError(t, err)
	// Its address has to be free again before the program listens on all of them.
	defer c.remove(t, mode.name)
	ready := func(ctx context.Context) (bool, error) {
		pod, err = pods.Get(ctx, mode.name, metav1.GetOptions{})
		return err == nil && pod.Status.Phase == corev1.PodRunning, err
	}
	err = wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, patience, true, ready)
	require.NoError(t, err, "%v", pod.Status)
	waitForPorts(t, pod.Status.PodIP, mode.ports)
	answers := mode.ask(t, pod.Status.PodIP)
	stream, err := pods.GetLogs(mode.name, &corev1.PodLogOptions{Container: "echo"}).Stream(ctx)
	require.NoError(t, err)
	defer stream.Close()
	log, err := io.ReadAll(stream)
	require.NoError(t, err)
	return answers, string(log)
}

func (c *cluster) remove(t *testing.T, name string) {
	pods, now := c.client.CoreV1().Pods("default"), int64(0)
	require.NoError(t, pods.Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
	gone := func(ctx context.Context) (bool, error) {
		_, err := pods.Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	}
	require.NoError(t, wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, gone))
}

func waitForPorts(t *testing.T, address string, ports []string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for _, port := range ports {
		for {
			connection, err := net.DialTimeout("tcp", net.JoinHostPort(address, port), time.Second)
			if err == nil {
				connection.Close()
				break
			}
			require.True(t, time.Now().Before(deadline), "%s:%s: %v", address, port, err)
			time.Sleep(5 * time.Millisecond)
		}
	}
}

var peer = regexp.MustCompile(`127\.\d+\.\d+\.\d+:\d+`)

// requestLines are the lines of a log that tell of requests, without the clients' ports.
func requestLines(log string) []string {
	var lines []string
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		for _, start := range []string{"Echoing back", "Received over", "Received UDP"} {
			if strings.HasPrefix(line, start) {
				lines = append(lines, peer.ReplaceAllString(line, "CLIENT"))
			}
		}
	}
	// Requests of different connections are logged as they come.
	slices.Sort(lines)
	return lines
}
