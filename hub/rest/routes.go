package rest

import (
	"net/http"
	"slices"
	"strings"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/hub/auth"
)

// route is one line of the table: a pattern of net/http, with literals in lower
// case; the resource type that the api-version, the registration and the
// action are checked for; the verb of the action; and how many leading segments
// of the path are the id that the action is on.
type route struct {
	pattern string
	typ     string
	verb    string
	depth   int
	handle  func(*call) error
}

// Depths of ids in segments.
const (
	ofTenant       = 0
	ofSubscription = 2
	ofGroup        = 4
	ofCluster      = 8
	ofResource     = 12
	ofOperation    = 14
)

const (
	typeSubscription = "Microsoft.Resources/subscriptions"
	typeProvider     = "Microsoft.Resources/providers"
	typeSourceV1     = "Microsoft.KubernetesConfiguration/sourceControlConfigurations"
	typeCatalogue    = "Microsoft.KubernetesConfiguration/extensionTypes"
)

// Paths, with literals in lower case.
const (
	sub     = "/subscriptions/{sub}"
	grouped = sub + "/resourcegroups/{group}"
	kube    = "/providers/microsoft.kubernetes/connectedclusters"
	aks     = "/providers/microsoft.containerservice/managedclusters"
	conf    = grouped + "/providers/{rp}/{kind}/{cluster}/providers/microsoft.kubernetesconfiguration"
	flux    = conf + "/fluxconfigurations"
	ext     = conf + "/extensions"
	// Of all clusters of a subscription or a group.
	fleet     = "/providers/microsoft.kubernetesconfiguration"
	fleetExt  = fleet + "/extensions"
	fleetFlux = fleet + "/fluxconfigurations"
	v1        = conf + "/sourcecontrolconfigurations"
	located   = sub + "/providers/microsoft.kubernetesconfiguration/locations/{location}/extensiontypes"
)

// routes is the whole API: tables of a screen each.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range slices.Concat(s.coreRoutes(), s.tagRoutes(), s.clusterRoutes(), s.configurationRoutes()) {
		mux.Handle(r.pattern, s.guard(r))
	}
	mux.HandleFunc("GET /metadata/endpoints", s.metadata) // the only one that needs no token
	return s.mounted(unrouted(s, mux))
}

// coreRoutes are those of every Azure Resource Manager.
func (s *Server) coreRoutes() []route {
	return []route{
		{"GET /subscriptions", typeSubscription, "", ofTenant, s.listSubscriptions},
		{"GET /tenants", typeSubscription, "", ofTenant, s.listTenants},
		{"GET " + sub, typeSubscription, "read", ofSubscription, s.getSubscription},
		{"GET " + sub + "/locations", typeSubscription, "read", ofSubscription, s.listLocations},
		{"GET " + sub + "/resources", typeSubscription, "", ofSubscription, s.listResources},
		{"GET " + sub + "/providers", typeProvider, "read", ofSubscription, s.listProviders},
		{"GET " + sub + "/providers/{ns}", typeProvider, "read", ofSubscription, s.getProvider},
		{"POST " + sub + "/providers/{ns}/register", typeProvider, "register/action", ofSubscription, s.registerProvider},
		{"POST " + sub + "/providers/{ns}/unregister", typeProvider, "unregister/action", ofSubscription, s.unregisterProvider},
		{"GET /providers/{ns}/operations", typeProvider, "", ofTenant, s.listOperations},
		{"GET " + sub + "/resourcegroups", resource.TypeResourceGroup, "", ofSubscription, s.listGroups},
		{"GET " + grouped, resource.TypeResourceGroup, "read", ofGroup, s.getGroup},
		{"HEAD " + grouped, resource.TypeResourceGroup, "read", ofGroup, s.headGroup},
		{"PUT " + grouped, resource.TypeResourceGroup, "write", ofGroup, s.putGroup},
		{"PATCH " + grouped, resource.TypeResourceGroup, "write", ofGroup, s.patchGroup},
		{"DELETE " + grouped, resource.TypeResourceGroup, "delete", ofGroup, s.deleteGroup},
		{"GET " + sub + "/operationresults/{op}", resource.TypeResourceGroup, "", ofSubscription, s.groupResult},
		{"GET " + grouped + "/resources", resource.TypeResourceGroup, "", ofGroup, s.listResources},
	}
}

// clusterRoutes are those of the clusters.
func (s *Server) clusterRoutes() []route {
	connected, managed := s.clusters(resource.TypeConnectedCluster), s.clusters(resource.TypeManagedCluster)
	return []route{
		{"GET " + sub + kube, resource.TypeConnectedCluster, "", ofSubscription, connected.list},
		{"GET " + grouped + kube, resource.TypeConnectedCluster, "", ofGroup, connected.list},
		{"GET " + grouped + kube + "/{cluster}", resource.TypeConnectedCluster, "read", ofCluster, connected.get},
		{"PUT " + grouped + kube + "/{cluster}", resource.TypeConnectedCluster, "write", ofCluster, connected.put},
		{"PATCH " + grouped + kube + "/{cluster}", resource.TypeConnectedCluster, "write", ofCluster, connected.patch},
		{"DELETE " + grouped + kube + "/{cluster}", resource.TypeConnectedCluster, "delete", ofCluster, connected.delete},
		{"POST " + grouped + kube + "/{cluster}/rotatekey", resource.TypeConnectedCluster, "rotateKey/action", ofCluster, connected.rotateKey},
		{"GET " + sub + aks, resource.TypeManagedCluster, "", ofSubscription, managed.list},
		{"GET " + grouped + aks, resource.TypeManagedCluster, "", ofGroup, managed.list},
		{"GET " + grouped + aks + "/{cluster}", resource.TypeManagedCluster, "read", ofCluster, managed.get},
		{"PUT " + grouped + aks + "/{cluster}", resource.TypeManagedCluster, "write", ofCluster, managed.put},
		{"PATCH " + grouped + aks + "/{cluster}", resource.TypeManagedCluster, "write", ofCluster, managed.patch},
		{"DELETE " + grouped + aks + "/{cluster}", resource.TypeManagedCluster, "delete", ofCluster, managed.delete},
	}
}

// configurationRoutes are those of what is configured in a cluster.
func (s *Server) configurationRoutes() []route {
	fluxes, extensions := s.configurations(), s.extensions()
	return []route{
		{"GET " + sub + fleetFlux, resource.TypeFluxConfiguration, "", ofSubscription, fluxes.everywhere},
		{"GET " + grouped + fleetFlux, resource.TypeFluxConfiguration, "", ofGroup, fluxes.everywhere},
		{"GET " + sub + fleetExt, resource.TypeExtension, "", ofSubscription, extensions.everywhere},
		{"GET " + grouped + fleetExt, resource.TypeExtension, "", ofGroup, extensions.everywhere},
		{"GET " + flux, resource.TypeFluxConfiguration, "", ofCluster, fluxes.list},
		{"GET " + flux + "/{name}", resource.TypeFluxConfiguration, "read", ofResource, fluxes.get},
		{"PUT " + flux + "/{name}", resource.TypeFluxConfiguration, "write", ofResource, fluxes.put},
		{"PATCH " + flux + "/{name}", resource.TypeFluxConfiguration, "write", ofResource, fluxes.patch},
		{"DELETE " + flux + "/{name}", resource.TypeFluxConfiguration, "delete", ofResource, fluxes.delete},
		{"POST " + flux + "/{name}/reconcile", resource.TypeFluxConfiguration, "reconcile/action", ofResource, s.reconcile},
		{"GET " + flux + "/{name}/operations/{op}", resource.TypeFluxConfiguration, "read", ofOperation, fluxes.operation},
		{"GET " + ext, resource.TypeExtension, "", ofCluster, extensions.list},
		{"GET " + ext + "/{name}", resource.TypeExtension, "read", ofResource, extensions.get},
		{"PUT " + ext + "/{name}", resource.TypeExtension, "write", ofResource, extensions.put},
		{"PATCH " + ext + "/{name}", resource.TypeExtension, "write", ofResource, extensions.patch},
		{"DELETE " + ext + "/{name}", resource.TypeExtension, "delete", ofResource, extensions.delete},
		{"GET " + ext + "/{name}/operations/{op}", resource.TypeExtension, "read", ofOperation, extensions.operation},
		{"GET " + conf + "/operations", resource.TypeExtension, "read", ofCluster, s.listRunning},
		{"GET " + v1, typeSourceV1, "read", ofCluster, s.listSourceV1},
		{"GET " + v1 + "/{name}", typeSourceV1, "read", ofResource, s.getSourceV1},
		{"PUT " + v1 + "/{name}", typeSourceV1, "write", ofResource, s.putSourceV1},
		{"DELETE " + v1 + "/{name}", typeSourceV1, "delete", ofResource, s.deleteSourceV1},
		{"GET " + conf + "/extensiontypes", typeCatalogue, "read", ofCluster, s.listExtensionTypes},
		{"GET " + conf + "/extensiontypes/{type}", typeCatalogue, "read", ofCluster, s.getExtensionType},
		{"GET " + conf + "/extensiontypes/{type}/versions", typeCatalogue, "read", ofCluster, s.listExtensionVersions},
		{"GET " + conf + "/extensiontypes/{type}/versions/{version}", typeCatalogue, "read", ofCluster, s.getExtensionVersion},
		{"GET " + located, typeCatalogue, "read", ofSubscription, s.listExtensionTypes},
		{"GET " + located + "/{type}", typeCatalogue, "read", ofSubscription, s.getExtensionType},
		{"GET " + located + "/{type}/versions", typeCatalogue, "read", ofSubscription, s.listExtensionVersions},
		{"GET " + located + "/{type}/versions/{version}", typeCatalogue, "read", ofSubscription, s.getExtensionVersion},
	}
}

// unrouted words the mux's plain 404 and 405 as ARM does, for those who are
// signed in; nobody else learns which paths there are.
func unrouted(s *Server, mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		if _, err := s.directory.Authenticate(r); err != nil {
			s.fail(w, r, err)
			return
		}
		for _, method := range []string{"GET", "PUT", "PATCH", "POST", "DELETE"} {
			probe := r.Clone(r.Context())
			probe.Method = method
			if _, pattern := mux.Handler(probe); pattern != "" {
				s.fail(w, r, arm.Errorf(arm.CodeMethodNotAllowed, "%s is not possible on %s; %s is", r.Method, r.URL.Path, method))
				return
			}
		}
		s.fail(w, r, notServed(r.URL.Path))
	})
}

// notServed says which part of a path this hub does not know.
func notServed(path string) error {
	segments := strings.Split(strings.Trim(path, "/"), "/")
	for i := len(segments) - 3; i >= 0; i-- {
		if arm.Fold(segments[i]) != "providers" {
			continue
		}
		if _, ok := providerOf(segments[i+1]); !ok {
			return arm.Errorf(arm.CodeInvalidNamespace, "The resource namespace '%s' is invalid: this hub does not serve it.", segments[i+1])
		}
		return arm.Errorf(arm.CodeInvalidType, "The resource type '%s' could not be found in the namespace '%s'.",
			strings.Join(segments[i+2:], "/"), segments[i+1])
	}
	return arm.Errorf(arm.CodeRouteNotFound, "there is nothing at %s", path)
}

// guard is what every route begins with: who, which version, through the gates,
// may they, does the subscription exist and is the provider registered in it.
func (s *Server) guard(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{server: s, w: w, r: r, now: s.clock().UTC()}
		err := c.identify(rt)
		if err == nil {
			a := s.attempt(w, r, c.who, action(rt, r), c.id.String())
			err = s.carry(w, r, a, func() error { return c.admit(rt) }, func() error { return rt.handle(c) })
		}
		if err != nil {
			s.fail(w, r, err)
		}
	})
}

// identify fills in the call: who, which version, what.
func (c *call) identify(rt route) error {
	var err error
	if c.who, err = c.server.directory.Authenticate(c.r); err != nil {
		return err
	}
	if c.version, err = apiVersion(c.r, rt.typ); err != nil {
		return err
	}
	if c.id, err = idOf(c.r.URL.Path, rt.depth); err == nil {
		c.r = c.r.WithContext(withCondition(c.r.Context(), c.r, c.id.Key(), c.w.Header()))
	}
	return err
}

// admit refuses those that may not go on.
func (c *call) admit(rt route) error {
	var err error
	if c.rights, err = c.server.directory.Rights(c.r.Context(), c.who); err != nil {
		return err
	}
	read := rt.typ + "/read"
	switch {
	case rt.verb == "" && rt.depth > ofTenant && !c.rights.Below(read, c.id.Key()):
		return auth.Forbid(c.who, read, c.id.String())
	case rt.verb != "" && !c.rights.Allows(action(rt, c.r), c.id.Key()):
		return auth.Forbid(c.who, action(rt, c.r), c.id.String())
	}
	if rt.depth == ofTenant {
		return nil
	}
	if err := c.subscriptionExists(); err != nil {
		return err
	}
	return c.registered(rt.typ)
}

// attempt describes what a request is about to do.
func (s *Server) attempt(w http.ResponseWriter, r *http.Request, who auth.Principal, action, scope string) *auth.Attempt {
	return &auth.Attempt{Who: who, Action: action, Scope: scope, Method: r.Method, From: auth.Address(r),
		RequestID: w.Header().Get(arm.HeaderRequestID), Correlation: w.Header().Get(arm.HeaderCorrelationID),
		ClientRequestID: r.Header.Get(arm.HeaderClientRequestID), UserAgent: r.UserAgent(), At: s.clock().UTC(), Header: w.Header()}
}

// carry takes an attempt through the gates, asks whether it may go on, and runs it.
func (s *Server) carry(w http.ResponseWriter, r *http.Request, a *auth.Attempt, may, run func() error) error {
	step := func() error {
		err := may()
		if err == nil {
			err = s.locks(r.Context(), a, run)
		}
		a.Status, a.Code = outcome(w, err)
		return err
	}
	for _, gate := range slices.Backward(s.gates) {
		next := step
		step = func() error { return gate(r.Context(), a, next) }
	}
	return step()
}

// mounted serves the paths of the mounts, and leaves the rest to next.
func (s *Server) mounted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, m := range s.mounts {
			demand, ok, err := m.Demand(r)
			if !ok {
				continue
			}
			if err := s.serveMount(w, r, m, demand, err); err != nil {
				s.fail(w, r, err)
			}
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) serveMount(w http.ResponseWriter, r *http.Request, m Mount, d auth.Demand, bad error) error {
	who, err := s.directory.Authenticate(r)
	if err != nil {
		return err
	}
	if bad != nil {
		return bad
	}
	if _, err := apiVersion(r, d.Action); err != nil {
		return err
	}
	scope := d.Scope
	if scope == "" {
		scope = "/"
	}
	var rights auth.Rights
	may := func() (err error) {
		if rights, err = s.directory.Rights(r.Context(), who); err != nil {
			return err
		}
		if d.Free || rights.Allows(d.Action, scope) || d.Filtered && rights.Below(d.Action, scope) {
			return nil
		}
		return auth.Forbid(who, d.Action, scope)
	}
	a := s.attempt(w, r, who, d.Action, d.Scope)
	a.Resource = d.Resource
	run := func() error { return m.Serve(w, r.WithContext(auth.NewContext(r.Context(), a)), who, rights) }
	return s.carry(w, r, a, may, run)
}

// action is what a route does, as roles name it.
func action(rt route, r *http.Request) string {
	if ns := r.PathValue("ns"); ns != "" && rt.typ == typeProvider {
		return canon(ns) + "/" + rt.verb
	}
	if rt.verb == "" {
		return rt.typ + "/read"
	}
	return rt.typ + "/" + rt.verb
}

// idOf reads the first depth segments of a path as a resource id.
func idOf(path string, depth int) (arm.ID, error) {
	if depth == ofTenant {
		return arm.ID{}, nil
	}
	segments := strings.Split(strings.Trim(path, "/"), "/")
	id, err := arm.ParseID("/" + strings.Join(segments[:depth], "/"))
	if err != nil {
		return arm.ID{}, arm.Errorf(arm.CodeInvalidID, "%v", err)
	}
	return id.Recase(canon), nil
}
