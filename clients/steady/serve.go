package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// How long a server that is told to end goes on taking requests: until nobody is sent here any more.
const linger = 3 * time.Second

func serve() {
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	web := &http.Server{Addr: ":8080", Handler: handler(host), Protocols: new(http.Protocols)}
	web.Protocols.SetHTTP1(true)
	web.Protocols.SetUnencryptedHTTP2(true)
	calls := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(calls, health.NewServer())
	listener, err := net.Listen("tcp", ":9090")
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Println(calls.Serve(listener)) }()
	go func() { log.Println(web.ListenAndServe()) }()

	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	<-told
	time.Sleep(linger)
	stopped := make(chan struct{})
	go func() { calls.GracefulStop(); close(stopped) }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := web.Shutdown(ctx); err != nil {
		log.Println(err)
	}
	select {
	case <-stopped:
	case <-ctx.Done():
	}
}

func handler(host string) http.Handler {
	mux := http.NewServeMux()
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Pod", host)
		if _, err := io.Copy(w, r.Body); err != nil {
			log.Println("echo:", err)
		}
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		socket, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer socket.Close()
		for {
			kind, message, err := socket.ReadMessage()
			if err != nil {
				return
			}
			if socket.WriteMessage(kind, message) != nil {
				return
			}
		}
	})
	return mux
}
