package azcli

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

const reader = "acdd72a7-3385-48ef-bd42-f606fba81ae7"

// TestStockAzureCLI is a person's day with the Azure CLI as Debian packages it.
func TestStockAzureCLI(t *testing.T) {
	i := newIssuer(t)
	h := start(t, "--oidc-issuers", i.file)
	s := h.shell(t)
	s.refused("AADSTS7000215", "login", "--service-principal", "-u", h.admin.ClientID, "-p", "wrong", "--tenant", h.admin.TenantID)
	s.login(h.admin.ClientID, h.admin.ClientSecret)
	sub := "/subscriptions/" + h.admin.SubscriptionID
	cluster := sub + "/resourceGroups/fleet/providers/Microsoft.Kubernetes/connectedClusters/berlin"
	t.Run("account", func(t *testing.T) {
		s := s.in(t)
		s.want(h.admin.SubscriptionID, "account", "show", "--query", "id")
		s.want(h.admin.TenantID, "rest", "--method", "get", "--url", "/tenants?api-version=2022-12-01")
		s.want("local", "account", "list-locations", "--query", "[].name")
		s.az("account", "set", "-s", h.admin.SubscriptionID)
		s.want("Bearer", "account", "get-access-token", "--query", "tokenType")
	})
	t.Run("group", func(t *testing.T) {
		s := s.in(t)
		s.want("Succeeded", "group", "create", "-n", "fleet", "-l", "local", "--tags", "team=web")
		s.want("fleet", "group", "list", "--query", "[].name")
		s.az("group", "wait", "-n", "fleet", "--created", "--timeout", "30")
		s.want("true", "group", "exists", "-n", "FLEET")
		s.want("false", "group", "exists", "-n", "nowhere")
		s.want("two", "group", "update", "-n", "fleet", "--set", "tags.team=two")
		s.refused("ResourceGroupNotFound", "group", "show", "-n", "nowhere")
		tagged := []string{"--resource-id", sub + "/resourceGroups/fleet"}
		s.want(`"7"`, append([]string{"tag", "update", "--operation", "Merge", "--tags", "cost=7"}, tagged...)...)
		s.want("two", append([]string{"tag", "list", "--query", "properties.tags.team"}, tagged...)...)
		s.az(append([]string{"tag", "update", "--operation", "Delete", "--tags", "cost=7"}, tagged...)...)
		s.want("null", "group", "show", "-n", "fleet", "--query", "[tags.cost]")
	})
	t.Run("provider", func(t *testing.T) {
		s := s.in(t)
		s.want("Microsoft.KubernetesConfiguration", "provider", "list", "--query", "[].namespace")
		s.az("provider", "register", "-n", "Microsoft.Kubernetes", "--wait")
		s.want("Registered", "provider", "show", "-n", "Microsoft.KubernetesConfiguration", "--query", "registrationState")
	})
	t.Run("resource", func(t *testing.T) { resources(s.in(t), cluster) })
	t.Run("lock", func(t *testing.T) { locks(s.in(t), cluster) })
	t.Run("role", func(t *testing.T) { roles(s.in(t), sub, i) })
	t.Run("activity", func(t *testing.T) {
		s := s.in(t)
		s.want("fluxConfigurations/write", "monitor", "activity-log", "list", "--offset", "1h", "--max-events", "200", "--query", "[].operationName.value")
		s.want("ScopeLocked", "monitor", "activity-log", "list", "-g", "fleet", "--status", "Failed", "--query", "[].properties.errorCode")
		s.want("[]", "monitor", "activity-log", "list", "--correlation-id", uuid.NewString())
	})
	t.Run("end", func(t *testing.T) {
		s := s.in(t)
		s.az("group", "delete", "-n", "fleet", "--yes")
		s.want("false", "group", "exists", "-n", "fleet")
	})
}

// in is the shell in a test of its own.
func (s *shell) in(t *testing.T) *shell { return &shell{t: t, hub: s.hub, home: s.home} }

// resources makes a cluster, an extension and a configuration, with an agent at work.
func resources(s *shell, cluster string) {
	a := newAgent(s.t, s.hub, cluster)
	body := `{"location":"local","identity":{"type":"SystemAssigned"},"properties":{"agentPublicKeyCertificate":"` + a.certificate() + `"}}`
	s.want("berlin", "resource", "create", "--id", cluster, "--api-version", "2024-01-01", "--is-full-object", "-p", body)
	a.run(s.t)
	extension := cluster + "/providers/Microsoft.KubernetesConfiguration/extensions/flux"
	s.want("Succeeded", "resource", "create", "--id", extension, "--api-version", "2023-05-01", "-p", `{"extensionType":"microsoft.flux"}`)
	configuration := cluster + "/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/apps"
	properties := `{"scope":"cluster","namespace":"apps","sourceKind":"GitRepository","gitRepository":{"url":"https://git.example/apps.git",` +
		`"repositoryRef":{"branch":"main"}},"kustomizations":{"apps":{"path":"./apps","prune":true}}}`
	s.want("Compliant", "resource", "create", "--id", configuration, "--api-version", "2023-05-01", "-p", properties, "--query", "properties.complianceState")
	s.want("main@sha1:4711", "resource", "show", "--ids", configuration, "--api-version", "2023-05-01")
	s.want("Compliant", "resource", "show", "--ids", configuration, "--query", "properties.complianceState") // chooses a version itself
	s.want("berlin", "resource", "list", "--resource-type", "Microsoft.Kubernetes/connectedClusters", "--query", "[].name")
	s.want("web", "resource", "tag", "--ids", cluster, "--tags", "team=web")
	s.want("berlin", "resource", "list", "-g", "fleet", "--query", "[].name")
	s.want("berlin", "resource", "list", "--tag", "team=web", "--query", "[].name")
	s.want("apps", "rest", "--method", "get", "--url", cluster+"/providers/Microsoft.KubernetesConfiguration/fluxConfigurations?api-version=2022-03-01")
	s.want("true", "resource", "update", "--ids", configuration, "--api-version", "2023-05-01", "--set", "properties.suspend=true", "--query", "properties.suspend")
	s.az("resource", "update", "--ids", configuration, "--api-version", "2023-05-01", "--set", "properties.suspend=false")
	s.az("resource", "invoke-action", "--ids", configuration, "--api-version", "2023-05-01", "--action", "reconcile")
	s.az("resource", "wait", "--ids", configuration, "--api-version", "2023-05-01", "--created", "--timeout", "30")
	s.refused("ValidationFailed", "resource", "create", "--id", configuration+"2", "--api-version", "2023-05-01", "-p", `{"sourceKind":"Bucket"}`)
	s.az("resource", "delete", "--ids", configuration, "--api-version", "2023-05-01")
	s.refused("ResourceNotFound", "resource", "show", "--ids", configuration, "--api-version", "2023-05-01")
}

func locks(s *shell, cluster string) {
	s.want("CanNotDelete", "lock", "create", "-n", "keep", "-g", "fleet", "--lock-type", "CanNotDelete", "--notes", "production")
	s.want("production", "lock", "show", "-n", "keep", "-g", "fleet")
	s.want("audited", "lock", "update", "-n", "keep", "-g", "fleet", "--notes", "audited")
	s.want("keep", "group", "lock", "list", "-g", "fleet", "--query", "[].name")
	s.want("keep", "account", "lock", "list", "--query", "[].name")
	s.refused("ScopeLocked", "group", "delete", "-n", "fleet", "--yes")
	s.az("lock", "delete", "-n", "keep", "-g", "fleet")
	on := []string{"-g", "fleet", "--resource", "berlin", "--resource-type", "Microsoft.Kubernetes/connectedClusters"}
	s.want("ReadOnly", append([]string{"lock", "create", "-n", "still", "--lock-type", "ReadOnly"}, on...)...)
	s.refused("ScopeLocked", "resource", "tag", "--ids", cluster, "--tags", "team=other")
	s.want("still", "lock", "list", "--query", "[].name")
	s.az(append([]string{"lock", "delete", "-n", "still"}, on...)...)
	s.az("resource", "tag", "--ids", cluster, "--tags", "team=other")
	s.want("ReadOnly", "lock", "create", "-n", "all", "--lock-type", "ReadOnly")
	s.refused("ScopeLocked", "group", "create", "-n", "more", "-l", "local")
	s.az("lock", "delete", "-n", "all")
}

// roles makes a service principal with a secret and a certificate, gives it a
// role, and signs in as it. What "az role" would do goes by "az rest": the
// command of Debian's package fails before it sends anything.
func roles(s *shell, sub string, i *issuer) {
	id, name := uuid.NewString(), uuid.NewString()
	principal := "/providers/Headwater.Identity/servicePrincipals/" + id
	version := "?api-version=2026-01-01"
	oid := strings.Trim(s.az("rest", "--method", "put", "--url", principal+version, "--body", `{"properties":{"displayName":"pipeline"}}`,
		"--query", "properties.objectId"), `"`)
	secret := strings.Trim(s.az("rest", "--method", "post", "--url", principal+"/addPassword"+version, "--body", "{}", "--query", "secretText"), `"`)
	certificate, both := makeCertificate(s.t)
	body, err := json.Marshal(map[string]string{"key": certificate})
	if err != nil {
		s.t.Fatal(err)
	}
	s.az("rest", "--method", "post", "--url", principal+"/addKey"+version, "--body", string(body))
	s.az("rest", "--method", "post", "--url", principal+"/addSubject"+version, "--body", `{"issuer":"`+i.server.URL+`","subject":"repo:web:main"}`)
	assignment := sub + "/providers/Microsoft.Authorization/roleAssignments/" + name + "?api-version=2022-04-01"
	s.az("rest", "--method", "put", "--url", assignment, "--body",
		`{"properties":{"roleDefinitionId":"`+sub+`/providers/Microsoft.Authorization/roleDefinitions/`+reader+`","principalId":"`+oid+`"}}`)
	assignments := sub + "/providers/Microsoft.Authorization/roleAssignments?api-version=2022-04-01"
	s.want(name, "rest", "--method", "get", "--url", assignments+"&$filter=principalId eq '"+oid+"'", "--query", "value[].name")
	s.want("[]", "rest", "--method", "get", "--url", assignments+"&$filter=principalId eq '"+uuid.NewString()+"'", "--query", "value[].name")
	s.want(reader, "rest", "--method", "get", "--url", sub+"/providers/Microsoft.Authorization/roleDefinitions?api-version=2022-04-01&$filter=roleName eq 'Reader'",
		"--query", "value[].name")
	custom := sub + "/providers/Microsoft.Authorization/roleDefinitions/" + uuid.NewString() + "?api-version=2022-04-01"
	s.want("Releaser", "rest", "--method", "put", "--url", custom, "--body", `{"properties":{"roleName":"Releaser","type":"CustomRole","assignableScopes":["`+sub+`"],`+
		`"permissions":[{"actions":["Microsoft.KubernetesConfiguration/fluxConfigurations/*","*/read"],"notActions":["*/delete"]}]}}`)
	s.az("rest", "--method", "delete", "--url", custom)
	var other *shell
	for _, with := range []string{secret, both} {
		other = s.hub.shell(s.t)
		other.login(id, with)
		other.want("fleet", "group", "list", "--query", "[].name")
		other.refused("AuthorizationFailed", "group", "create", "-n", "mine", "-l", "local")
	}
	federated := s.hub.shell(s.t)
	federated.az("login", "--service-principal", "-u", id, "--federated-token", i.token(s.t, "repo:web:main"), "--tenant", s.hub.admin.TenantID)
	federated.want("fleet", "group", "list", "--query", "[].name")
	federated.refused("AADSTS7000215", "login", "--service-principal", "-u", id, "--federated-token", i.token(s.t, "repo:web:fork"), "--tenant", s.hub.admin.TenantID)
	s.az("rest", "--method", "delete", "--url", assignment)
	other.refused("AuthorizationFailed", "group", "list") // with the token that it has
}

// makeCertificate is a certificate as PEM, and a file with its key as az takes it.
func makeCertificate(t *testing.T) (string, string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pipeline"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	file := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(file, append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), certificate...), 0o600); err != nil {
		t.Fatal(err)
	}
	return string(certificate), file
}
