package echobasic

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// files are what the servers read, and the certificate that a client shows them.
type files struct {
	folder string
	texts  map[string]string
	client tls.Certificate
}

// makeFiles makes a server's key pair as the suite makes them (RSA, PKCS #1), and a client's with the CA that signed it.
func makeFiles(t *testing.T) *files {
	made := &files{folder: t.TempDir(), texts: map[string]string{}}
	serverKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	server := template("server")
	server.DNSNames = []string{"abc.example.com"}
	made.texts["crt"] = pemText("CERTIFICATE", sign(t, server, server, &serverKey.PublicKey, serverKey))
	made.texts["key"] = pemText("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(serverKey))

	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := template("ca")
	ca.IsCA, ca.BasicConstraintsValid = true, true
	ca.KeyUsage = x509.KeyUsageCertSign
	made.texts["ca.crt"] = pemText("CERTIFICATE", sign(t, ca, ca, &caKey.PublicKey, caKey))
	clientKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	client := template("client")
	client.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	made.client = tls.Certificate{
		Certificate: [][]byte{sign(t, client, ca, &clientKey.PublicKey, caKey)},
		PrivateKey:  clientKey,
	}
	for name, text := range made.texts {
		require.NoError(t, os.WriteFile(filepath.Join(made.folder, name), []byte(text), 0o600))
	}
	return made
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
}

func sign(t *testing.T, certificate, parent *x509.Certificate, public, private any) []byte {
	der, err := x509.CreateCertificate(rand.Reader, certificate, parent, public, private)
	require.NoError(t, err)
	return der
}

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
