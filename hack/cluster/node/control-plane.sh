# shellcheck shell=bash
# control_plane: etcd, the API server, the controller manager, the scheduler, and what provisions
# volumes. Sourced by main.sh.

# Only an answer to somebody known counts: before the rules for access exist, the API server is
# "ready" for nobody else, and the controller manager and the scheduler would give up.
api_ready() {
	local end=$((SECONDS + 240))
	while ((SECONDS < end)); do
		! curl -sf --max-time 2 --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" \
			-o /dev/null "https://$(in_url "$(first address 10)"):6443/readyz" || return 0
		sleep 0.1
	done
	echo "the API server did not become ready: see $RUN/cp/log/apiserver.log" >&2
	return 1
}

control_plane() {
	local k
	# Without fsync it starts faster, and the "power cut" of a node does not lose the page cache.
	start etcd etcd --data-dir=/var/lib/etcd --unsafe-no-fsync --log-level=warn \
		--listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
		--listen-peer-urls=http://127.0.0.1:2380
	# With the aggregator's routing, webhooks are dialled at their pods' addresses, so none of this
	# needs kube-proxy here.
	start apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address="$IP" --secure-port=6443 \
		--tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" --client-ca-file="$PKI/ca.crt" \
		--kubelet-client-certificate="$PKI/admin.crt" --kubelet-client-key="$PKI/admin.key" \
		--kubelet-preferred-address-types=InternalIP \
		--service-account-issuer=https://kubernetes.default.svc \
		--service-account-key-file="$PKI/sa.key" --service-account-signing-key-file="$PKI/sa.key" \
		--service-cluster-ip-range="$(each services)" --allow-privileged=true \
		--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
		--requestheader-client-ca-file="$PKI/ca.crt" --requestheader-allowed-names=front-proxy \
		--requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
		--requestheader-extra-headers-prefix=X-Remote-Extra- \
		--proxy-client-cert-file="$PKI/front-proxy.crt" --proxy-client-key-file="$PKI/front-proxy.key" \
		--enable-aggregator-routing=true
	api_ready || return
	# At the default of 20 requests a second, the controller manager's first 5 s go into the tokens of
	# its controllers.
	k=$RUN/controller-manager.kubeconfig
	start controller-manager kube-controller-manager --leader-elect=false --bind-address=127.0.0.1 \
		--kubeconfig="$k" --authentication-kubeconfig="$k" --authorization-kubeconfig="$k" \
		--use-service-account-credentials --root-ca-file="$PKI/ca.crt" --service-account-private-key-file="$PKI/sa.key" \
		--cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" \
		--allocate-node-cidrs=false --kube-api-qps=500 --kube-api-burst=1000
	k=$RUN/scheduler.kubeconfig
	start scheduler kube-scheduler --leader-elect=false --bind-address=127.0.0.1 \
		--kubeconfig="$k" --authentication-kubeconfig="$k" --authorization-kubeconfig="$k"
	HOME=/run KUBECONFIG=$RUN/admin.kubeconfig start storage storage
}
