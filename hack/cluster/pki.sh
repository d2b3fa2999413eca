# shellcheck shell=bash
# make_keys: one certificate authority, and for each component and each node a certificate and a
# kubeconfig, in $RUN. To be sourced.

new_key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)

certificate() { # name subject [subjectAltName]
	openssl req -new "${new_key[@]}" -subj "$2" -keyout "$1.key" 2>/dev/null |
		openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out "$1.crt" \
			-extfile <(
				echo extendedKeyUsage=serverAuth,clientAuth
				[ -z "${3:-}" ] || echo "subjectAltName=$3"
			) 2>/dev/null
	cat >"$RUN/$1.kubeconfig" <<-EOT
		apiVersion: v1
		kind: Config
		current-context: $ID
		contexts: [{name: $ID, context: {cluster: $ID, user: $1}}]
		clusters: [{name: $ID, cluster: {server: "https://$(in_url "$(first address 10)"):6443", certificate-authority: "$PWD/ca.crt"}}]
		users: [{name: $1, user: {client-certificate: "$PWD/$1.crt", client-key: "$PWD/$1.key"}}]
	EOT
}

ip_name() { echo "IP:$("$2" "$1" "$3")"; } # family function number

node_certificate() { # number
	local n
	n=$(node_name "$1")
	certificate "$n" "/O=system:nodes/CN=system:node:$n" "$(each ip_name address $((10 + $1))),DNS:$n"
}

make_keys() (
	local i service=kubernetes.default.svc
	umask 077
	mkdir -p "$RUN/pki"
	cd "$RUN/pki" || exit
	openssl req -x509 "${new_key[@]}" -days 3650 -subj "/CN=$ID-ca" -keyout ca.key -out ca.crt 2>/dev/null
	openssl genrsa -out sa.key 2048 2>/dev/null
	certificate apiserver /CN=kube-apiserver \
		"IP:127.0.0.1,$(each ip_name address 10),$(each ip_name service 1),DNS:kubernetes,DNS:kubernetes.default,DNS:$service,DNS:$service.cluster.local"
	certificate admin /O=system:masters/CN=admin
	certificate controller-manager /CN=system:kube-controller-manager
	certificate scheduler /CN=system:kube-scheduler
	certificate proxy /CN=system:kube-proxy
	certificate front-proxy /CN=front-proxy
	for i in $(seq 0 "$WORKERS"); do
		node_certificate "$i"
	done
)
