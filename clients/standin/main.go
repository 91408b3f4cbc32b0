// The program of images that the guides name and that this machine cannot have: it answers as they do.
//
// On 1027 as kong/go-echo, on 8080 as agnhost's netexec (/hostname, /echo), on 80 as the hostname tutorial's page.
package main

import (
	"fmt"
	"html"
	"log"
	"net/http"
	"os"
)

func main() {
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	greeting := func(w http.ResponseWriter, _ *http.Request) {
		lines := []struct{ variable, text string }{
			{"NODE_NAME", "Welcome, you are connected to node %s.\n"},
			{"POD_NAME", "Running on Pod %s.\n"},
			{"NAMESPACE", "In namespace %s.\n"},
			{"POD_IP", "With IP address %s.\n"},
		}
		for _, line := range lines {
			if value := os.Getenv(line.variable); value != "" {
				fmt.Fprintf(w, line.text, value)
			}
		}
		fmt.Fprintln(w)
	}
	netexec := http.NewServeMux()
	netexec.HandleFunc("/hostname", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, host) })
	netexec.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.FormValue("msg")) })
	page := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html><link rel=\"icon\" href=\"data:,\"><title>%[1]s</title><h1>%[1]s</h1>\n", html.EscapeString(host))
	}
	ended := make(chan error)
	serve := func(address string, handler http.Handler) {
		go func() { ended <- http.ListenAndServe(address, handler) }()
	}
	serve(":1027", http.HandlerFunc(greeting))
	serve(":8080", netexec)
	serve(":80", http.HandlerFunc(page))
	log.Fatal(<-ended)
}
