package clients

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

const (
	// largest is what the clients of these tests take in one datagram.
	largest = 4096
	// usual is the longest answer to a client that says nothing. Source: RFC 1035 section 4.2.1.
	usual = 512
)

// nameServer answers on one address over both transports: `who.` with its name, `long.` with more than a datagram of the
// usual size holds, and anything else with NXDOMAIN.
type nameServer struct {
	name          string
	udp, tcp      net.Addr
	lock          sync.Mutex
	clients       map[string]bool
	overTCP, asks int
}

func startNameServer(t *testing.T, name string) *nameServer {
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	stream := listen(t)
	s := &nameServer{name: name, udp: packets.LocalAddr(), tcp: stream.Addr(), clients: map[string]bool{}}
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: s}, {Listener: stream, Handler: s}} {
		go func() { _ = server.ActivateAndServe() }()
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return s
}

// ServeDNS implements dns.Handler.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	_, overTCP := w.RemoteAddr().(*net.TCPAddr)
	s.lock.Lock()
	s.clients[w.RemoteAddr().String()] = true
	s.asks++
	if overTCP {
		s.overTCP++
	}
	s.lock.Unlock()
	answer := new(dns.Msg)
	answer.SetReply(request)
	asked := request.Question[0].Name
	header := dns.RR_Header{Name: asked, Rrtype: dns.TypeTXT, Class: dns.ClassINET}
	switch asked {
	case "who.":
		answer.Answer = []dns.RR{&dns.TXT{Hdr: header, Txt: []string{s.name}}}
	case "long.":
		for range 15 {
			answer.Answer = append(answer.Answer, &dns.TXT{Hdr: header, Txt: []string{strings.Repeat("t", 250)}})
		}
	default:
		answer.SetRcode(request, dns.RcodeNameError)
	}
	if !overTCP {
		size := usual
		if option := request.IsEdns0(); option != nil {
			size = int(option.UDPSize())
		}
		answer.Truncate(size)
	}
	_ = w.WriteMsg(answer)
}

func question(name string) *dns.Msg {
	return new(dns.Msg).SetQuestion(name, dns.TypeTXT)
}

// who is the server that answered.
func who(t *testing.T, answer *dns.Msg) string {
	t.Helper()
	require.Len(t, answer.Answer, 1)
	return answer.Answer[0].(*dns.TXT).Txt[0]
}

func TestDNSClientsAreServed(t *testing.T) {
	first, second := startNameServer(t, "first"), startNameServer(t, "second")
	route := func(kind, listener, transport string) string {
		return fmt.Sprintf(`
---
apiVersion: gateway.networking.k8s.io/v1
kind: %[1]s
metadata: {name: dns}
spec:
  parentRefs: [{name: clients, sectionName: %[2]s}]
  rules:
  - backendRefs: [{name: first-%[3]s, port: 80, weight: 2}, {name: second-%[3]s, port: 80, weight: 1}]
`, kind, listener, transport)
	}
	world.serve(t, "udproute", "dns", backend("first-udp", "UDP", "", first.udp)+backend("second-udp", "UDP", "", second.udp)+
		route("UDPRoute", "dns", "udp"))
	world.serve(t, "tcproute", "dns", backend("first-tcp", "TCP", "", first.tcp)+backend("second-tcp", "TCP", "", second.tcp)+
		route("TCPRoute", "dns-tcp", "tcp"))
	socket := world.socket(dnsPort)
	for _, transport := range []string{"udp", "tcp"} {
		t.Run("flows are shared as the weights say, over "+transport, func(t *testing.T) {
			client, counts := dns.Client{Net: transport, Timeout: patience}, map[string]int{}
			for index := range 300 {
				// A flow of its own each time, also where the kernel gives a port again.
				if client.Dialer = (&net.Dialer{Timeout: patience}); transport == "udp" {
					client.Dialer.LocalAddr = &net.UDPAddr{IP: net.IPv4(127, 1, byte(index/250), byte(index%250+1))}
				}
				answer, _, err := client.Exchange(question("who."), socket)
				require.NoError(t, err)
				counts[who(t, answer)]++
			}
			require.InDelta(t, 200, counts["first"], 1, "%v", counts)
			require.Equal(t, 300, counts["first"]+counts["second"])
		})
	}
	t.Run("a flow stays where it is", func(t *testing.T) {
		client := dns.Client{Timeout: patience}
		connection, err := client.Dial(socket)
		require.NoError(t, err)
		defer connection.Close()
		counts := map[string]int{}
		for range 100 {
			answer, _, err := client.ExchangeWithConn(question("who."), connection)
			require.NoError(t, err)
			counts[who(t, answer)]++
		}
		require.Len(t, counts, 1)
	})
	t.Run("long answers come whole where the client takes them, else truncated and then over TCP", func(t *testing.T) {
		client := dns.Client{Timeout: patience, UDPSize: largest}
		answer, _, err := client.Exchange(question("long.").SetEdns0(largest, false), socket)
		require.NoError(t, err)
		require.False(t, answer.Truncated)
		require.Len(t, answer.Answer, 15)
		require.Greater(t, answer.Len(), 3500)
		answer, _, err = client.Exchange(question("long."), socket)
		require.NoError(t, err)
		require.True(t, answer.Truncated)
		client.Net = "tcp"
		answer, _, err = client.Exchange(question("long."), socket)
		require.NoError(t, err)
		require.Len(t, answer.Answer, 15)
	})
	t.Run("a name that is not there", func(t *testing.T) {
		client := dns.Client{Timeout: patience}
		answer, _, err := client.Exchange(question("nowhere."), socket)
		require.NoError(t, err)
		require.Equal(t, dns.RcodeNameError, answer.Rcode)
	})
	t.Run("many at once are not mixed up", func(t *testing.T) {
		var group sync.WaitGroup
		errs := make(chan error, 64)
		for range cap(errs) {
			group.Go(func() {
				client := dns.Client{Timeout: patience}
				asked := question("who.")
				answer, _, err := client.Exchange(asked, socket)
				if err == nil && answer.Id != asked.Id {
					err = fmt.Errorf("asked %d, answered %d", asked.Id, answer.Id)
				}
				if err != nil {
					errs <- err
				}
			})
		}
		group.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
	})
}
