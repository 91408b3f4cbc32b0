package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

const (
	host     = "steady.example"
	callHost = "calls.example"
	// A request without its whole answer by then has failed.
	patience = 10 * time.Second
	// More is not told one by one.
	told = 200
)

// One kind of traffic: so many senders, each with so many milliseconds between the beginnings of two requests.
type traffic struct {
	name    string
	senders int
	every   time.Duration
	// A sender of its own: what it does once.
	begin func(address string) func() error
}

var kinds = []traffic{
	{"h1", 8, 100 * time.Millisecond, keepsAlive},
	{"h1-new", 2, 100 * time.Millisecond, connectsAnew},
	{"h2", 2, 50 * time.Millisecond, h2},
	{"grpc", 2, 50 * time.Millisecond, calls},
}

type failure struct {
	// Unix time, milliseconds: when the request began and when it failed.
	Began int64  `json:"began"`
	At    int64  `json:"at"`
	Kind  string `json:"kind"`
	What  string `json:"what"`
}

type count struct {
	Sent    int   `json:"sent"`
	Failed  int   `json:"failed"`
	Slowest int64 `json:"slowestMs"`
}

type results struct {
	mutex    sync.Mutex
	Counts   map[string]*count `json:"counts"`
	Failures []failure         `json:"failures"`
	// Of the WebSocket: when a connection broke that was there.
	Breaks []failure `json:"breaks"`
}

func (r *results) record(kind string, began time.Time, err error) {
	now := time.Now()
	r.mutex.Lock()
	defer r.mutex.Unlock()
	of := r.Counts[kind]
	if of == nil {
		of = &count{}
		r.Counts[kind] = of
	}
	of.Sent++
	of.Slowest = max(of.Slowest, now.Sub(began).Milliseconds())
	if err != nil {
		of.Failed++
		if len(r.Failures) < told {
			r.Failures = append(r.Failures, failure{began.UnixMilli(), now.UnixMilli(), kind, err.Error()})
		}
	}
}

func (r *results) broke(began time.Time, err error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.Breaks = append(r.Breaks, failure{began.UnixMilli(), time.Now().UnixMilli(), "ws", err.Error()})
}

func load(address string) {
	done := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(done)
	}()
	all := &results{Counts: map[string]*count{}, Failures: []failure{}, Breaks: []failure{}}
	var senders sync.WaitGroup
	for _, kind := range kinds {
		for range kind.senders {
			once := kind.begin(address)
			senders.Go(func() {
				ticks := time.NewTicker(kind.every)
				defer ticks.Stop()
				for {
					select {
					case <-done:
						return
					case <-ticks.C:
						began := time.Now()
						all.record(kind.name, began, once())
					}
				}
			})
		}
	}
	senders.Go(func() { stream(address, all, done) })
	senders.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(all); err != nil {
		log.Fatal(err)
	}
}

// A body that cannot be read twice: no client sends such a request again behind our back.
func post(client *http.Client, address string) error {
	sent := []byte("steady")
	request, err := http.NewRequest(http.MethodPost, "http://"+address+"/echo", io.NopCloser(bytes.NewReader(sent)))
	if err != nil {
		return err
	}
	request.ContentLength = int64(len(sent))
	return exchange(client, request, sent)
}

func exchange(client *http.Client, request *http.Request, expected []byte) error {
	request.Host = host
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return fmt.Errorf("after %s: %w", response.Status, err)
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %.200s", response.Status, body)
	case !bytes.Equal(body, expected):
		return fmt.Errorf("%.200q instead of %q", body, expected)
	}
	return nil
}

func keepsAlive(address string) func() error {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	return func() error { return post(client, address) }
}

func connectsAnew(address string) func() error {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	return func() error { return post(client, address) }
}

func h2(address string) func() error {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Timeout: patience, Transport: transport}
	return func() error {
		request, err := http.NewRequest(http.MethodGet, "http://"+address+"/echo", nil)
		if err != nil {
			return err
		}
		return exchange(client, request, nil)
	}
}

func calls(address string) func() error {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority(callHost),
	}
	connection, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		log.Fatal(err)
	}
	client := grpc_health_v1.NewHealthClient(connection)
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		return err
	}
}

// One WebSocket: a message at a time, each answered. A new one as soon as it breaks.
func stream(address string, all *results, done <-chan struct{}) {
	for {
		began := time.Now()
		dialer := websocket.Dialer{HandshakeTimeout: patience}
		socket, response, err := dialer.Dial("ws://"+address+"/ws", http.Header{"Host": {host}})
		if err != nil && response != nil {
			err = fmt.Errorf("%w: %s", err, response.Status)
		}
		all.record("ws-connect", began, err)
		if err == nil {
			began = time.Now()
			err = converse(socket, all, done)
			socket.Close()
			if err == nil {
				return
			}
			all.broke(began, err)
		}
		select {
		case <-done:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func converse(socket *websocket.Conn, all *results, done <-chan struct{}) error {
	ticks := time.NewTicker(50 * time.Millisecond)
	defer ticks.Stop()
	for number := 0; ; number++ {
		select {
		case <-done:
			return nil
		case <-ticks.C:
		}
		began := time.Now()
		sent := fmt.Sprint("message ", number)
		deadline := began.Add(patience)
		if err := socket.SetReadDeadline(deadline); err != nil {
			return err
		}
		if err := socket.WriteMessage(websocket.TextMessage, []byte(sent)); err != nil {
			return err
		}
		_, message, err := socket.ReadMessage()
		if err != nil {
			return err
		}
		if string(message) != sent {
			err = fmt.Errorf("%q instead of %q", message, sent)
		}
		all.record("ws", began, err)
	}
}
