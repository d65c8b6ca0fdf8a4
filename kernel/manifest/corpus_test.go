package manifest

// corpus are kustomizations of all sorts: files by path, built at app/ when
// there is one, else at the root. Every build must give what kustomize gives.
func corpus() map[string]map[string]string {
	deployment := `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      containers:
      - name: web
        image: ghcr.io/x/web:1
        env: [{name: A, value: "1"}]
        envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: credentials}}]
      - {name: side, image: side}
      volumes: [{name: v, configMap: {name: settings}}]
`
	rbac := `apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: team}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [configmaps], resourceNames: [settings], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: web, namespace: team}, {kind: ServiceAccount, name: other, namespace: else}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: web}]
`
	network := `apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {rules: [{host: a.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, minReplicas: 1, maxReplicas: 2}
`
	settings := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: '1', host: example.com}\n"
	crd := `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: mines.my.io}
spec: {group: my.io, scope: Namespaced, names: {kind: Mine, plural: mines}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}
---
apiVersion: my.io/v1
kind: Mine
metadata: {name: m}
spec: {ref: {name: settings}, items: [{name: a, v: 1}]}
`
	with := func(extra string) map[string]string {
		return map[string]string{
			"app/kustomization.yaml": "resources: [d.yaml, net.yaml, settings.yaml, rbac.yaml, crd.yaml]\n" + extra,
			"app/d.yaml":             deployment, "app/net.yaml": network, "app/settings.yaml": settings, "app/rbac.yaml": rbac, "app/crd.yaml": crd,
			"app/env.properties": "A=1\n# c\nB=two words\n", "app/file.txt": "hello\nworld\n", "app/bin": "\x00\xff\x01",
			"app/patch.yaml":          "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {template: {spec: {containers: [{name: web, env: [{name: B, value: '2'}]}]}}}\n",
			"app/json.yaml":           "- {op: replace, path: /spec/replicas, value: 4}\n",
			"app/names.yaml":          "nameReference:\n- kind: ConfigMap\n  fieldSpecs: [{kind: Mine, path: spec/ref/name}]\n",
			"comp/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nresources: [extra.yaml]\npatches: [{target: {kind: Deployment}, patch: '[{op: add, path: /metadata/labels/c, value: on}]'}]\n",
			"comp/extra.yaml":         "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: extra}\n",
		}
	}
	base := func(overlay string) map[string]string {
		m := with("")
		for name, body := range m {
			if len(name) > 4 && name[:4] == "app/" {
				m["base/"+name[4:]] = body
				delete(m, name)
			}
		}
		m["app/kustomization.yaml"] = "resources: [../base]\n" + overlay
		m["app/patch.yaml"], m["app/file.txt"] = with("")["app/patch.yaml"], "hello"
		return m
	}
	return map[string]map[string]string{
		"resources":          with(""),
		"prefix and suffix":  with("namePrefix: pre-\nnameSuffix: -post\n"),
		"namespace":          with("namespace: prod\n"),
		"labels":             with("labels: [{pairs: {team: a}, includeSelectors: true}, {pairs: {tier: b}}, {pairs: {t: c}, includeTemplates: true}]\n"),
		"common labels":      with("commonLabels: {team: a}\ncommonAnnotations: {note: 'x: y'}\n"),
		"images":             with("images: [{name: ghcr.io/x/web, newTag: '2'}, {name: side, newName: other/side, digest: 'sha256:0000000000000000000000000000000000000000000000000000000000000000'}]\n"),
		"replicas":           with("replicas: [{name: web, count: 7}]\n"),
		"strategic merge":    with("patches: [{path: patch.yaml}]\n"),
		"delete by patch":    with("patches: [{patch: '{$patch: delete, apiVersion: v1, kind: ConfigMap, metadata: {name: settings}}'}]\n"),
		"JSON6902":           with("patches: [{path: json.yaml, target: {kind: Deployment, name: 'w.*'}}, {patch: '[{op: remove, path: /spec/ports}]', target: {kind: Service}}]\n"),
		"old patches":        with("patchesStrategicMerge: [patch.yaml]\npatchesJson6902: [{target: {group: apps, version: v1, kind: Deployment, name: web}, path: json.yaml}]\n"),
		"patch by labels":    with("patches: [{target: {labelSelector: app=web}, patch: '[{op: add, path: /metadata/annotations, value: {p: q}}]'}]\n"),
		"generators":         with("configMapGenerator: [{name: g, files: [file.txt, k=file.txt, bin], literals: [a=b, 'c=d=e'], envs: [env.properties]}]\nsecretGenerator: [{name: credentials, type: Opaque, literals: [p=q]}]\n"),
		"generator options":  with("generatorOptions: {disableNameSuffixHash: true, labels: {g: h}, immutable: true}\nconfigMapGenerator: [{name: g, literals: [a=b]}, {name: h, literals: [x=y], options: {disableNameSuffixHash: false, annotations: {z: z}}}]\n"),
		"components":         with("components: [../comp]\n"),
		"replacements":       with("replacements: [{source: {kind: ConfigMap, name: settings, fieldPath: data.host}, targets: [{select: {kind: Ingress}, fieldPaths: [spec.rules.0.host]}]}]\n"),
		"vars":               with("vars: [{name: HOST, objref: {apiVersion: v1, kind: Service, name: web}}]\npatches: [{target: {kind: Deployment}, patch: '[{op: add, path: /spec/template/spec/containers/0/args, value: [\"$(HOST)\"]}]'}]\nnamePrefix: p-\n"),
		"configurations":     with("configurations: [names.yaml]\nnamePrefix: p-\n"),
		"build metadata":     with("buildMetadata: [originAnnotations, transformerAnnotations, managedByLabel]\nnamePrefix: p-\n"),
		"sort order":         with("sortOptions: {order: legacy}\n"),
		"custom sort":        with("sortOptions: {order: legacy, legacySortOptions: {orderFirst: [Service], orderLast: [Namespace]}}\n"),
		"plugins":            with("transformers: [t.yaml]\n"),
		"base":               base(""),
		"overlay":            base("namespace: prod\nnamePrefix: prod-\npatches: [{path: patch.yaml}]\nimages: [{name: side, newTag: '9'}]\n"),
		"merge generator":    merging(),
		"diamond of renames": diamond(),
		"nested":             nested(),
		"openapi":            {"kustomization.yaml": "resources: [r.yaml]\nopenapi: {path: schema.json}\npatches: [{patch: '{apiVersion: my.io/v1, kind: Mine, metadata: {name: m}, spec: {items: [{name: a, v: 2}]}}'}]\n", "r.yaml": "apiVersion: my.io/v1\nkind: Mine\nmetadata: {name: m}\nspec: {items: [{name: a, v: 1}, {name: b, v: 1}]}\n", "schema.json": mineSchema},
		"crds":               {"kustomization.yaml": "resources: [r.yaml, s.yaml]\ncrds: [crd.json]\nnamePrefix: p-\n", "r.yaml": "apiVersion: my.io/v1\nkind: Mine\nmetadata: {name: m}\nspec: {ref: {name: settings}}\n", "s.yaml": settings, "crd.json": mineCRD},
		"lists":              {"kustomization.yaml": "resources: [l.yaml]\n", "l.yaml": "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: one}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: two}}\n---\napiVersion: v1\nkind: ConfigMapList\nitems: [{metadata: {name: three}, apiVersion: v1, kind: ConfigMap}]\n"},
		"local config":       {"kustomization.yaml": "resources: [l.yaml]\n", "l.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, annotations: {config.kubernetes.io/local-config: 'true'}}\n---\n" + settings},
		"empty annotations":  {"kustomization.yaml": "resources: [l.yaml]\n", "l.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, annotations: {}, labels: {}, namespace: ''}\ndata: null\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: two, annotations: null}\n---\n---\n# nothing\n---\n" + settings},
		"odd scalars":        {"kustomization.yaml": "resources: [l.yaml]\n", "l.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {a: 'yes', b: '0o7', c: '1e3', d: '~', e: \"\\u0007\", f: |\n  text\n  more\n, g: >-\n  folded\n  line\n}\nbinaryData: {x: !!binary aGVsbG8=}\n"},
		"aliases":            {"kustomization.yaml": "resources: [l.yaml]\n", "l.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, labels: &l {a: b}, annotations: *l}\n"},
		"numbers":            {"kustomization.yaml": "resources: [l.yaml]\n", "l.yaml": "apiVersion: my.io/v1\nkind: Mine\nmetadata: {name: one}\nspec: {i: 12345678901234567, f: 1.50, e: 1e10, h: 0x1F, o: 0o17, z: -0, b: true, n: null, s: '1'}\n"},
		"BOM":                {"kustomization.yaml": "\ufeffresources: [l.yaml]\n", "l.yaml": "\ufeff" + settings},
		"JSON":               {"kustomization.yaml": "resources: [l.json]\n", "l.json": `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"j"},"data":{"a":"<b>&\u2028"}}`},
		"same name twice":    {"kustomization.yaml": "resources: [l.yaml]\n", "l.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, namespace: a}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, namespace: b}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: one, namespace: a}\n"},
	}
}

const mineCRD = `{"github.com/my.Mine": {"Schema": {"description": "m", "properties": {"spec": {"$ref": "github.com/my.Spec"}, "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"$ref": "k8s.io/apimachinery/pkg/apis/meta/v1.ObjectMeta"}}}, "Dependencies": ["github.com/my.Spec"]},
"github.com/my.Spec": {"Schema": {"properties": {"ref": {"x-kubernetes-object-ref-api-version": "v1", "x-kubernetes-object-ref-kind": "ConfigMap", "x-kubernetes-object-ref-name-key": "name", "$ref": "x"}}}, "Dependencies": []}}`

func merging() map[string]string {
	return map[string]string{
		"app/kustomization.yaml":  "resources: [../base]\nconfigMapGenerator: [{name: g, behavior: merge, literals: [b=2]}]\nsecretGenerator: [{name: s, behavior: replace, literals: [x=y]}]\n",
		"base/kustomization.yaml": "resources: [pod.yaml]\nconfigMapGenerator: [{name: g, literals: [a=1]}]\nsecretGenerator: [{name: s, literals: [a=1]}]\n",
		"base/pod.yaml":           "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i, envFrom: [{configMapRef: {name: g}}, {secretRef: {name: s}}]}]}\n",
	}
}

func diamond() map[string]string {
	return map[string]string{
		"app/kustomization.yaml":   "resources: [../left, ../right, ref.yaml]\n",
		"app/ref.yaml":             "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}], volumes: [{name: v, configMap: {name: only}}]}\n",
		"left/kustomization.yaml":  "resources: [../base]\nnamePrefix: l-\n",
		"right/kustomization.yaml": "resources: [../base, only.yaml]\nnamePrefix: r-\n",
		"right/only.yaml":          "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: only}\n",
		"base/kustomization.yaml":  "resources: [c.yaml]\n",
		"base/c.yaml":              "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n",
	}
}

func nested() map[string]string {
	return map[string]string{
		"app/kustomization.yaml":    "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nmetadata: {name: top}\nresources: [z.yaml, ../one, ./sub]\n",
		"app/z.yaml":                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: z}\n",
		"app/sub/kustomization.yml": "resources: [y.yaml]\n", "app/sub/y.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: y}\n",
		"one/Kustomization": "resources: [../two, x.yaml]\n", "one/x.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {a: b}\n",
		"two/kustomization.yaml": "resources: [w.yaml]\n", "two/w.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: w}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
	}
}
