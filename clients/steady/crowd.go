package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What a crowd is marked with.
const crowd = "weir.dev/crowd"

// Endpoints of one Service, and so of one EndpointSlice.
const each = 10

// Objects that are made at a time.
const makers = 16

type object = map[string]any

func routesOf(namespace string) string {
	return "/apis/gateway.networking.k8s.io/v1/namespaces/" + namespace + "/httproutes"
}

func slicesOf(namespace string) string {
	return "/apis/discovery.k8s.io/v1/namespaces/" + namespace + "/endpointslices"
}

func servicesOf(namespace string) string { return "/api/v1/namespaces/" + namespace + "/services" }

func named(kind, version, name string, labels object) object {
	labels[crowd] = "yes"
	return object{"apiVersion": version, "kind": kind, "metadata": object{"name": name, "labels": labels}}
}

// Addresses where nobody is. Source: RFC 2544.
func endpointsOf(service, turn int) []object {
	var all []object
	for at := range each {
		address := fmt.Sprintf("198.18.%d.%d", (service*each+at)/250, 1+(service*each+at)%250)
		all = append(all, object{"addresses": []string{address}, "conditions": object{"ready": at != turn%each}})
	}
	return all
}

// gather makes so many routes of the Gateway, to Services without selectors that have so many endpoints in all.
func gather(namespace, gateway string, routes, endpoints int) {
	api := openAPI()
	defer api.end()
	services := endpoints / each
	together(services, func(at int) error {
		name := fmt.Sprintf("crowd-%d", at)
		service := named("Service", "v1", name, object{})
		service["spec"] = object{"ports": []object{{"name": "http", "port": 80}}}
		if err := api.create(servicesOf(namespace), service); err != nil {
			return err
		}
		slice := named("EndpointSlice", "discovery.k8s.io/v1", name, object{"kubernetes.io/service-name": name})
		slice["addressType"] = "IPv4"
		slice["ports"] = []object{{"name": "http", "port": 8080}}
		slice["endpoints"] = endpointsOf(at, each)
		return api.create(slicesOf(namespace), slice)
	})
	together(routes, func(at int) error {
		route := named("HTTPRoute", "gateway.networking.k8s.io/v1", fmt.Sprintf("crowd-%d", at), object{})
		backend := func(of, weight int) object {
			return object{"name": fmt.Sprintf("crowd-%d", of%services), "port": 80, "weight": weight}
		}
		route["spec"] = object{
			"parentRefs": []object{{"name": gateway}},
			"hostnames":  []string{fmt.Sprintf("crowd-%d.example", at)},
			"rules":      []object{{"backendRefs": []object{backend(at, 90), backend(at+1, 10)}}},
		}
		return api.create(routesOf(namespace), route)
	})
}

// disperse takes them all away, one by one: of so many at once the API server gives up after its time.
func disperse(namespace string, routes, endpoints int) {
	api := openAPI()
	defer api.end()
	away := func(collection string) func(at int) error {
		return func(at int) error { return api.remove(fmt.Sprintf("%s/crowd-%d", collection, at)) }
	}
	together(routes, away(routesOf(namespace)))
	together(endpoints/each, away(slicesOf(namespace)))
	together(endpoints/each, away(servicesOf(namespace)))
}

func together(number int, make func(at int) error) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range makers {
		all.Go(func() {
			for at := int(next.Add(1)) - 1; at < number; at = int(next.Add(1)) - 1 {
				if err := make(at); err != nil {
					log.Fatal(err)
				}
			}
		})
	}
	all.Wait()
}

// churn changes so many EndpointSlices of the crowd in a second until standard input ends, and says how many that were.
func churn(namespace string, endpoints, aSecond int) {
	api := openAPI()
	defer api.end()
	done := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(done)
	}()
	tick := time.NewTicker(time.Second / time.Duration(aSecond))
	defer tick.Stop()
	services := endpoints / each
	for changed := 0; ; changed++ {
		select {
		case <-done:
			fmt.Println(changed)
			return
		case <-tick.C:
		}
		at, turn := changed%services, changed/services
		path := fmt.Sprintf("%s/crowd-%d", slicesOf(namespace), at)
		if err := api.patch(path, object{"endpoints": endpointsOf(at, turn)}); err != nil {
			log.Fatal(err)
		}
	}
}

// How long after a patch every data plane has to do as it says.
const effectWithin = 10 * time.Second

// Milliseconds.
type spread struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func spreadOf(all []time.Duration) spread {
	slices.Sort(all)
	at := func(share float64) float64 {
		return float64(all[min(int(share*float64(len(all))), len(all)-1)].Microseconds()) / 1e3
	}
	return spread{P50: at(0.5), P99: at(0.99), Max: at(1)}
}

// watched is one data plane, and what it answered last.
type watched struct {
	address string
	client  *http.Client
	every   time.Duration
}

// answersOf waits until the data plane sends a request to the backend; the time is when its answer was there.
func (w *watched) answersOf(backend string) (time.Time, error) {
	end := time.Now().Add(effectWithin)
	for {
		request, err := http.NewRequest(http.MethodGet, "http://"+w.address+"/echo", nil)
		if err != nil {
			return time.Time{}, err
		}
		request.Host = "timed.example"
		response, err := w.client.Do(request)
		if err != nil {
			return time.Time{}, err
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		now := time.Now()
		switch pod := response.Header.Get("Pod"); {
		case response.StatusCode != http.StatusOK:
			return now, fmt.Errorf("%s: %s", w.address, response.Status)
		case strings.HasPrefix(pod, backend+"-"):
			return now, nil
		case now.After(end):
			return now, fmt.Errorf("%s still sends to %s instead of %s", w.address, pod, backend)
		}
		time.Sleep(w.every)
	}
}

// edit moves the whole weight of the HTTPRoute `timed` from one backend to the other and back, and asks every data plane until it does so.
func edit(namespace string, edits int, addresses []string) {
	api := openAPI()
	defer api.end()
	var planes []*watched
	for _, address := range addresses {
		client := &http.Client{Timeout: effectWithin, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
		// All of them together ask often enough to see a millisecond, and not so often that asking is the load.
		planes = append(planes, &watched{address, client, time.Duration(len(addresses)) * 300 * time.Microsecond})
	}
	backends := [2]string{"timed-a", "timed-b"}
	var acknowledged, first, last []time.Duration
	for at := range edits {
		to := backends[(at+1)%2]
		// All to `timed-b` first.
		refs := []object{
			{"name": backends[0], "port": 80, "weight": at % 2},
			{"name": backends[1], "port": 80, "weight": (at + 1) % 2},
		}
		seen := make([]time.Time, len(planes))
		var all sync.WaitGroup
		began := time.Now()
		for at, plane := range planes {
			all.Go(func() {
				when, err := plane.answersOf(to)
				if err != nil {
					log.Fatal(err)
				}
				seen[at] = when
			})
		}
		change := object{"spec": object{"rules": []object{{"backendRefs": refs}}}}
		if err := api.patch(routesOf(namespace)+"/timed", change); err != nil {
			log.Fatal(err)
		}
		acknowledged = append(acknowledged, time.Since(began))
		all.Wait()
		first = append(first, slices.MinFunc(seen, time.Time.Compare).Sub(began))
		last = append(last, slices.MaxFunc(seen, time.Time.Compare).Sub(began))
		// Not in step with anything.
		time.Sleep(20*time.Millisecond + rand.N(60*time.Millisecond))
	}
	told := map[string]spread{
		"acknowledged": spreadOf(acknowledged), "first": spreadOf(first), "all": spreadOf(last),
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		log.Fatal(err)
	}
}
