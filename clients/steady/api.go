package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// api speaks to the cluster that kubectl would speak to, with kubectl's credentials: by a proxy of its own on a socket.
type api struct {
	client *http.Client
	end    func()
}

func openAPI() *api {
	folder, err := os.MkdirTemp("", "steady")
	if err != nil {
		log.Fatal(err)
	}
	socket := filepath.Join(folder, "api.sock")
	proxy := exec.Command("kubectl", "proxy", "--unix-socket="+socket)
	proxy.Stderr = os.Stderr
	proxy.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := proxy.Start(); err != nil {
		log.Fatal("kubectl proxy: ", err)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	transport := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 32}
	a := &api{client: &http.Client{Timeout: time.Minute, Transport: transport}}
	a.end = func() {
		proxy.Process.Signal(syscall.SIGTERM)
		proxy.Wait()
		os.RemoveAll(folder)
	}
	for tries := 0; ; tries++ {
		err := a.call(http.MethodGet, "/readyz", "", nil)
		if err == nil {
			return a
		}
		if tries == 100 {
			log.Fatal("the API does not answer: ", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (a *api) call(method, path, contentType string, body any) error {
	var sent io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		sent = bytes.NewReader(encoded)
	}
	request, err := http.NewRequest(method, "http://localhost"+path, sent)
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %.300s", method, path, response.Status, answer)
	}
	return err
}

func (a *api) create(collection string, object any) error {
	return a.call(http.MethodPost, collection, "application/json", object)
}

func (a *api) patch(path string, change any) error {
	return a.call(http.MethodPatch, path, "application/merge-patch+json", change)
}

func (a *api) remove(path string) error {
	return a.call(http.MethodDelete, path, "application/json", map[string]any{})
}
