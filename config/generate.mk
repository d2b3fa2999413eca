##@ Generated files

.PHONY: generate
generate: ## Write the deepcopy functions of api/ and docs/api.md
	hack/generate.sh code

.PHONY: manifests
manifests: ## Write the CRDs, the role, the chart's copies of them, and config/default/install.yaml
	hack/generate.sh manifests
