#!/bin/sh
# Generates what deploy/ derives from Go types: the CRDs of the Flux API and of
# api/config, and the deep copies of api/config. Run from the module's root
# (make gen does). It writes only below deploy/crds and api/config.
#
# The published API modules still carry the deprecated versions but mark them
# to be skipped. They are served here, with a warning, because old manifests
# must keep working: the markers are rewritten in a temporary copy of each
# module, and the newest version stays the one that is stored.
set -eu

root=$(pwd)
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
gen=$(go tool -modfile=tools.mod -n controller-gen)
cp go.mod go.sum "$work/"

# newest prints the version that the given version of a kind gives way to:
# the one marked as the storage version in the same module.
newest() { # module-dir kind
	for v in v2 v1 v1beta3 v1beta2; do
		grep -rqs "^type $2 struct" "$1/$v" && echo "$v" && return
	done
}

# serve rewrites the markers of one file of a deprecated version.
serve() { # module-dir version file
	kind=$(sed -n '/+kubebuilder:skipversion/,/^type /s/^type \([A-Za-z]*\) struct.*/\1/p' "$3" | head -n 1)
	[ -n "$kind" ] || return 0
	warning="$2 $kind is deprecated, upgrade to $(newest "$1" "$kind")"
	sed -i -e "s|^\(// *+kubebuilder:\)skipversion\$|\1deprecatedversion:warning=\"$warning\"|" \
		-e '/^\/\/ *+kubebuilder:resource:/d' "$3"
}

paths=
for name in source-controller/api kustomize-controller/api helm-controller/api notification-controller/api \
	image-reflector-controller/api image-automation-controller/api source-watcher/api/v2; do
	module=github.com/fluxcd/$name
	name=${name%%/*}
	cp -R "$(go list -m -f '{{.Dir}}' $module)" "$work/$name"
	chmod -R u+w "$work/$name"
	go mod edit -replace "$module=$work/$name" "$work/go.mod"
	for dir in "$work/$name"/v*; do
		version=${dir##*/}
		paths="$paths${paths:+;}$module/$version"
		for file in "$dir"/*_types.go; do serve "$work/$name" "$version" "$file"; done
	done
done

rm -f deploy/crds/flux/*.yaml deploy/crds/fluxconfig/*.yaml
(cd "$work" && "$gen" crd "paths=$paths" "output:crd:dir=$root/deploy/crds/flux")
"$gen" object crd paths=./api/config output:crd:dir=deploy/crds/fluxconfig output:object:dir=./api/config
