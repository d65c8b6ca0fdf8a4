// Package minidns answers the names of a cluster's Services from the API
// server's Services and EndpointSlices: A records under svc.cluster.local,
// NXDOMAIN for everything else. It is meant for development clusters without
// a way out, where nothing else can be resolved anyway.
package minidns

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	zone = ".svc.cluster.local."
	// ttl of an answer in seconds; short, since clients should see changes at once.
	ttl = 2
)

// Main runs the server until SIGTERM or SIGINT: --kubeconfig FILE --listen IP:PORT.
// It returns the process's exit code.
func Main(args []string) int {
	flags := flag.NewFlagSet("minidns", flag.ContinueOnError)
	kubeconfig := flags.String("kubeconfig", "", "file with the cluster to read Services from")
	listen := flags.String("listen", "127.0.0.1:53", "address for UDP and TCP")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, *kubeconfig, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "minidns:", err)
		return 1
	}
	return 0
}

func run(ctx context.Context, kubeconfig, listen string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("read kubeconfig %q: %w", kubeconfig, err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	z := &zoneReader{
		services: factory.Core().V1().Services().Lister(),
		slices:   factory.Discovery().V1().EndpointSlices().Lister(),
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	udp, err := net.ListenPacket("udp", listen)
	if err != nil {
		return fmt.Errorf("listen on udp %s: %w", listen, err)
	}
	tcp, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listen on tcp %s: %w", listen, err)
	}
	fmt.Fprintln(os.Stderr, "minidns: serving", zone, "on", listen)

	failed := make(chan error, 2)
	go func() { failed <- z.servePackets(udp) }()
	go func() { failed <- z.serveStreams(tcp) }()
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// zoneReader looks names up in informer caches.
type zoneReader struct {
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
}

// lookup returns the addresses of a fully qualified name, and whether the name exists:
// <service>.<namespace>.svc.cluster.local. and <hostname>.<service>.<namespace>.svc.cluster.local.
func (z *zoneReader) lookup(name string) (addresses []net.IP, exists bool) {
	rest, ok := strings.CutSuffix(strings.ToLower(name), zone)
	if !ok {
		return nil, false
	}
	labels := strings.Split(rest, ".")
	hostname := ""
	if len(labels) == 3 {
		hostname, labels = labels[0], labels[1:]
	}
	if len(labels) != 2 {
		return nil, false
	}
	service, err := z.services.Services(labels[1]).Get(labels[0])
	if err != nil {
		return nil, false
	}
	if hostname == "" && service.Spec.ClusterIP != corev1.ClusterIPNone {
		return []net.IP{net.ParseIP(service.Spec.ClusterIP)}, true
	}
	addresses = z.endpoints(service, hostname)
	return addresses, hostname == "" || len(addresses) > 0
}

// endpoints returns the addresses of a Service's ready endpoints, of one host
// name only when that is given.
func (z *zoneReader) endpoints(service *corev1.Service, hostname string) []net.IP {
	selector := labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: service.Name})
	slices, err := z.slices.EndpointSlices(service.Namespace).List(selector)
	if err != nil {
		return nil
	}
	var addresses []net.IP
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			ready := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
			if !ready && !service.Spec.PublishNotReadyAddresses {
				continue
			}
			if hostname != "" && (endpoint.Hostname == nil || *endpoint.Hostname != hostname) {
				continue
			}
			for _, address := range endpoint.Addresses {
				addresses = append(addresses, net.ParseIP(address))
			}
		}
	}
	return addresses
}

// answer returns the reply to one request, or nil when the request is no DNS question.
func (z *zoneReader) answer(request []byte) []byte {
	var parser dnsmessage.Parser
	header, err := parser.Start(request)
	if err != nil {
		return nil
	}
	question, err := parser.Question()
	if err != nil {
		return nil
	}
	reply := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: header.ID, Response: true, Authoritative: true,
			RecursionDesired: header.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{question},
	}
	addresses, exists := z.lookup(question.Name.String())
	if !exists {
		reply.RCode = dnsmessage.RCodeNameError
	}
	for _, address := range addresses {
		v4 := address.To4()
		if v4 == nil || question.Type != dnsmessage.TypeA {
			continue
		}
		reply.Answers = append(reply.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Class: question.Class, TTL: ttl},
			Body:   &dnsmessage.AResource{A: [4]byte(v4)},
		})
	}
	packed, err := reply.Pack()
	if err != nil {
		return nil
	}
	return packed
}

func (z *zoneReader) servePackets(conn net.PacketConn) error {
	buffer := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return fmt.Errorf("read udp: %w", err)
		}
		if reply := z.answer(buffer[:n]); reply != nil {
			if _, err := conn.WriteTo(reply, from); err != nil && errors.Is(err, net.ErrClosed) {
				return err
			}
		}
	}
}

func (z *zoneReader) serveStreams(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("accept tcp: %w", err)
		}
		go z.serveStream(conn)
	}
}

func (z *zoneReader) serveStream(conn net.Conn) {
	defer conn.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		request := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, request); err != nil {
			return
		}
		reply := z.answer(request)
		if reply == nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}
