package manifest

import (
	"fmt"
	"strings"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	"sigs.k8s.io/kustomize/kyaml/openapi/kubernetesapi"
)

// Fields of an OpenAPI document in its protobuf form.
const (
	documentDefinitions = 9 // Document.definitions
	definitionsEntry    = 1 // Definitions.additional_properties
)

// builtinSchema fills kustomize's schema with the kinds of Kubernetes.
//
// Kustomize would read the whole document that it brings, operations and
// descriptions included, and hold some forty MiB meanwhile. A build needs the
// definitions of the kinds alone: they are read one by one, and their prose is
// left out. Which kinds have a namespace kustomize knows without the document.
func builtinSchema() error {
	openapi.SuppressBuiltInSchemaUse()
	openapi.Schema() // reads what is left: the definition of a kustomization
	name := "kubernetesapi/" + strings.ReplaceAll(kubernetesapi.DefaultOpenAPI, ".", "_") + "/swagger.pb"
	document := kubernetesapi.OpenAPIMustAsset[kubernetesapi.DefaultOpenAPI](name)
	err := eachField(document, documentDefinitions, func(definitions []byte) error {
		return eachField(definitions, definitionsEntry, addDefinition)
	})
	if err != nil {
		return fmt.Errorf("read the schema of Kubernetes' kinds: %w", err)
	}
	return nil
}

func addDefinition(raw []byte) error {
	var named openapiv2.NamedSchema
	if err := proto.Unmarshal(raw, &named); err != nil {
		return err
	}
	var s spec.Schema
	if _, err := s.FromGnostic(named.GetValue()); err != nil {
		return fmt.Errorf("definition %s: %w", named.GetName(), err)
	}
	withoutProse(&s)
	openapi.AddDefinitions(spec.Definitions{named.GetName(): s})
	return nil
}

// withoutProse drops what only people read.
func withoutProse(s *spec.Schema) {
	s.Description, s.Title, s.Example, s.ExternalDocs = "", "", nil, nil
	for name, p := range s.Properties {
		withoutProse(&p)
		s.Properties[name] = p
	}
	if s.Items != nil && s.Items.Schema != nil {
		withoutProse(s.Items.Schema)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		withoutProse(s.AdditionalProperties.Schema)
	}
}

// eachField gives the content of each occurrence of a field of a message.
func eachField(message []byte, field protowire.Number, give func([]byte) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if number != field || kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return protowire.ParseError(n)
			}
			message = message[n:]
			continue
		}
		content, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := give(content); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}
