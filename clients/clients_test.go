// Package clients holds a sandbox against clients that others have written: h2spec, grpc-go, WebSocket libraries and
// Autobahn's test suite, a DNS library, curl.
//
// It owns the sandbox, one for all tests, and the servers behind it: ordinary processes and sockets on loopback, which
// EndpointSlices of the tests' own name. Deliberately absent: anything that the sandbox's echo pods answer, so that both ends
// of every conversation are somebody else's, and any tolerance for failures.
package clients

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	weir     = flag.String("weir", "", "the weir binary")
	h2spec   = flag.String("h2spec", "", "the h2spec binary")
	autobahn = flag.String("autobahn", "", "a Python 2.7")
	packages = flag.String("autobahn-packages", "", "the folder where it has the package autobahntestsuite")
	all      = flag.Bool("all", false, "all cases of Autobahn's suite: on the plain listener also those of compression and of throughput")
)

const (
	// patience bounds every wait.
	patience = 60 * time.Second
	// name is what the Gateway's certificate is for.
	name = "clients.example"
	// role marks a process that this program started of itself.
	role = "WEIR_CLIENTS_ROLE"
)

// Ports of the Gateway's listeners, above those that need a right.
const (
	plainPort  = 18080
	securePort = 18443
	// Routes of gRPC and of HTTP may not share a hostname on a listener.
	grpcPort       = 18081
	grpcSecurePort = 18444
	dnsPort        = 18053
)

// world is what all tests share.
var world *sandbox

// authority signs the Gateway's certificate, and is trusted by clients that check.
var authority *identity

func TestMain(m *testing.M) {
	flag.Parse()
	if as := os.Getenv(role); as != "" {
		play(as, flag.Args())
		return
	}
	if *weir == "" || *h2spec == "" {
		fmt.Fprintln(os.Stderr, "-weir and -h2spec say which programs are meant")
		os.Exit(2)
	}
	os.Exit(run(m))
}

// run has the sandbox around the tests.
func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "weir-clients-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	if authority, err = newIdentity(folder); err == nil {
		world, err = startSandbox(folder)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the sandbox:", err)
		return 1
	}
	defer world.end()
	if err = world.apply(gateway()); err == nil {
		err = world.awaitGateway()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the Gateway:", err)
		return 1
	}
	return m.Run()
}

// gateway has a plain and a TLS listener, another pair for gRPC, and one of each transport for DNS.
func gateway() string {
	secret := base64.StdEncoding.EncodeToString
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: clients}
spec: {controllerName: weir.dev/gateway-controller}
---
apiVersion: v1
kind: Secret
metadata: {name: clients}
type: kubernetes.io/tls
data: {tls.crt: %s, tls.key: %s}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: clients}
spec:
  gatewayClassName: clients
  listeners:
  - {name: plain, port: %d, protocol: HTTP}
  - {name: secure, port: %d, protocol: HTTPS, tls: {certificateRefs: [{name: clients}]}}
  - {name: grpc, port: %d, protocol: HTTP}
  - {name: grpc-secure, port: %d, protocol: HTTPS, tls: {certificateRefs: [{name: clients}]}}
  - {name: dns, port: %d, protocol: UDP}
  - {name: dns-tcp, port: %d, protocol: TCP}
`, secret(authority.leaf), secret(authority.key), plainPort, securePort, grpcPort, grpcSecurePort, dnsPort, dnsPort)
}

// identity is a certificate authority with the one certificate that it signed.
type identity struct {
	pool *x509.CertPool
	// file holds the authority's certificate.
	file string
	// leaf and key are PEM.
	leaf, key []byte
}

func newIdentity(folder string) (*identity, error) {
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "clients' authority"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    root.NotBefore,
		NotAfter:     root.NotAfter,
		DNSNames:     []string{name, bothHost, oneHost},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, &authorityKey.PublicKey, authorityKey)
	if err != nil {
		return nil, err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, &leafKey.PublicKey, authorityKey)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		return nil, err
	}
	made := &identity{pool: x509.NewCertPool(), file: filepath.Join(folder, "authority.pem")}
	rootPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER})
	made.pool.AppendCertsFromPEM(rootPEM)
	made.leaf = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER})
	made.key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return made, os.WriteFile(made.file, rootPEM, 0o644)
}

// tlsConfig checks the Gateway's certificate.
func tlsConfig() *tls.Config { return &tls.Config{RootCAs: authority.pool, ServerName: name} }

// eventually looks again and again until there is no error.
func eventually(t *testing.T, what string, look func() error) {
	t.Helper()
	require.NoError(t, await(look), what)
}

// await gives the last error when time is over.
func await(look func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := look()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
