package minidns

import (
	"net"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// reader knows the Service web at 10.96.0.7, the headless Service db with the
// ready host db-0 and one that is not ready.
func reader(t *testing.T) *zoneReader {
	t.Helper()
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	slices := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	host, late, yes, no := "db-0", "db-1", true, false
	for _, err := range []error{
		services.Add(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7"}}),
		services.Add(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "db"}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}}),
		slices.Add(&discovery.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "db-x", Labels: map[string]string{discovery.LabelServiceName: "db"}},
			Endpoints: []discovery.Endpoint{
				{Addresses: []string{"10.244.0.5"}, Hostname: &host, Conditions: discovery.EndpointConditions{Ready: &yes}},
				{Addresses: []string{"10.244.0.6"}, Hostname: &late, Conditions: discovery.EndpointConditions{Ready: &no}},
			},
		}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &zoneReader{services: corelisters.NewServiceLister(services), slices: discoverylisters.NewEndpointSliceLister(slices)}
}

func TestAnswer(t *testing.T) {
	z := reader(t)
	cases := map[string]struct {
		why     string
		name    string
		kind    dnsmessage.Type
		address string // empty: no answer record
		code    dnsmessage.RCode
	}{
		"service":        {"a Service is its cluster address", "web.apps.svc.cluster.local.", dnsmessage.TypeA, "10.96.0.7", dnsmessage.RCodeSuccess},
		"upper case":     {"names have no case", "Web.APPS.svc.cluster.local.", dnsmessage.TypeA, "10.96.0.7", dnsmessage.RCodeSuccess},
		"IPv6":           {"the name exists without such a record", "web.apps.svc.cluster.local.", dnsmessage.TypeAAAA, "", dnsmessage.RCodeSuccess},
		"headless":       {"a headless Service is its ready endpoints", "db.apps.svc.cluster.local.", dnsmessage.TypeA, "10.244.0.5", dnsmessage.RCodeSuccess},
		"host":           {"one endpoint by its host name", "db-0.db.apps.svc.cluster.local.", dnsmessage.TypeA, "10.244.0.5", dnsmessage.RCodeSuccess},
		"host not ready": {"an endpoint that is not ready has no name", "db-1.db.apps.svc.cluster.local.", dnsmessage.TypeA, "", dnsmessage.RCodeNameError},
		"no service":     {"nobody made it", "api.apps.svc.cluster.local.", dnsmessage.TypeA, "", dnsmessage.RCodeNameError},
		"outside":        {"there is no way out", "example.com.", dnsmessage.TypeA, "", dnsmessage.RCodeNameError},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			request := dnsmessage.Message{
				Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
				Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(c.name), Type: c.kind, Class: dnsmessage.ClassINET}},
			}
			packed, err := request.Pack()
			if err != nil {
				t.Fatal(err)
			}
			var reply dnsmessage.Message
			if err := reply.Unpack(z.answer(packed)); err != nil {
				t.Fatal(err)
			}
			address := ""
			for _, record := range reply.Answers {
				address = net.IP(record.Body.(*dnsmessage.AResource).A[:]).String()
			}
			if reply.ID != 7 || reply.RCode != c.code || address != c.address {
				t.Errorf("%s: id %d, code %v, address %q; want %v, %q", c.why, reply.ID, reply.RCode, address, c.code, c.address)
			}
		})
	}
	if got := z.answer([]byte("no DNS")); got != nil {
		t.Errorf("nonsense is answered: %x", got)
	}
}
