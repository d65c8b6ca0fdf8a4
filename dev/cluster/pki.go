package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// validity of all certificates; a development cluster does not get that old.
const validity = 5 * 365 * 24 * time.Hour

// pki is the folder with a cluster's keys and certificates, and the two
// authorities that issue them.
type pki struct {
	dir   string
	root  *identity // clients, API server, kubelets
	front *identity // the API server as a client of aggregated API servers
}

// identity is a certificate with its key.
type identity struct {
	cert            *x509.Certificate
	key             *ecdsa.PrivateKey
	certPEM, keyPEM []byte
}

// subject is what a leaf certificate is for.
type subject struct {
	user   string
	groups []string
	names  []string // DNS names, of a server
	ips    []net.IP // addresses, of a server
}

// newPKI makes the authorities and the service account key pair.
func newPKI(dir string) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create certificate folder: %w", err)
	}
	p := &pki{dir: dir}
	var err error
	if p.root, err = p.authority("ca"); err != nil {
		return nil, err
	}
	if p.front, err = p.authority("front-proxy-ca"); err != nil {
		return nil, err
	}
	return p, p.serviceAccountKeys()
}

// path returns where a file of the PKI is: <name>.crt, <name>.key, sa.pub.
func (p *pki) path(file string) string { return filepath.Join(p.dir, file) }

func (p *pki) authority(name string) (*identity, error) {
	return p.issue(name, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, nil)
}

// leaf issues a client certificate, which serves as well when it has names or addresses.
func (p *pki) leaf(name string, s subject, issuer *identity) (*identity, error) {
	template := &x509.Certificate{
		Subject:  pkix.Name{CommonName: s.user, Organization: s.groups},
		DNSNames: s.names, IPAddresses: s.ips,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(s.names)+len(s.ips) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	return p.issue(name, template, issuer)
}

// issue signs the template, by itself when there is no issuer, and writes
// <name>.crt and <name>.key.
func (p *pki) issue(name string, template *x509.Certificate, issuer *identity) (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of %s: %w", name, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make serial number of %s: %w", name, err)
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(validity)
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", name, err)
	}
	id := &identity{key: key, certPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	if id.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("read certificate of %s: %w", name, err)
	}
	if id.keyPEM, err = encodeKey(key); err != nil {
		return nil, err
	}
	if err := p.write(name+".crt", id.certPEM); err != nil {
		return nil, err
	}
	return id, p.write(name+".key", id.keyPEM)
}

// serviceAccountKeys makes the pair that signs and verifies service account tokens.
func (p *pki) serviceAccountKeys() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make service account key: %w", err)
	}
	private, err := encodeKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return fmt.Errorf("encode service account key: %w", err)
	}
	if err := p.write("sa.key", private); err != nil {
		return err
	}
	return p.write("sa.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
}

// kubeconfig writes a kubeconfig for a new client of the server.
func (p *pki) kubeconfig(file, server string, s subject) error {
	client, err := p.leaf(s.user, s, p.root)
	if err != nil {
		return err
	}
	const name = "headwater"
	config := api.NewConfig()
	config.Clusters[name] = &api.Cluster{Server: server, CertificateAuthorityData: p.root.certPEM}
	config.AuthInfos[name] = &api.AuthInfo{ClientCertificateData: client.certPEM, ClientKeyData: client.keyPEM}
	config.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		return fmt.Errorf("write kubeconfig of %s: %w", s.user, err)
	}
	return nil
}

func (p *pki) write(file string, content []byte) error {
	if err := os.WriteFile(p.path(file), content, 0o600); err != nil {
		return fmt.Errorf("write certificate folder: %w", err)
	}
	return nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
