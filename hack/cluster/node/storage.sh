# shellcheck shell=bash
# storage: the provisioner of the StorageClasses "standard" and "shared". A claim gets a folder on the
# node that the scheduler chose (in truth one in $RUN/pv, which every node sees), as a local volume. Of
# class standard it stays on that node, and its pod too; one of class shared goes with its pod, as a
# disk does that a cloud attaches to another machine. (The controller manager's own provisioner makes folders that only root can
# write to.) Sourced by main.sh.

# A watch ends when the API server does.
watch_forever() {
	while :; do
		kubectl get "$@" --watch 2>/dev/null
		sleep 0.5
	done
}

provision() { # claims, as lines
	local uid namespace claim size mode class phase node where
	while read -r uid namespace claim size mode class phase node; do
		# The node is empty as long as no pod uses the claim.
		case "$class $phase $node" in
		"standard Pending "?*) where="operator: In, values: [$node]" ;;
		"shared Pending "?*) where="operator: Exists" ;;
		*) continue ;;
		esac
		mkdir -p "$RUN/pv/$uid"
		chmod 777 "$RUN/pv/$uid"
		# One that was provisioned already is refused, as it should be.
		kubectl create -f - <<-EOT
			apiVersion: v1
			kind: PersistentVolume
			metadata: {name: pvc-$uid, annotations: {pv.kubernetes.io/provisioned-by: cluster.local/folder}}
			spec:
			  capacity: {storage: $size}
			  accessModes: [$mode]
			  persistentVolumeReclaimPolicy: Delete
			  storageClassName: $class
			  local: {path: $RUN/pv/$uid}
			  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: $namespace, name: $claim, uid: $uid}
			  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, $where}]}]}}
		EOT
	done
}

reclaim() { # volumes, as lines
	local volume path class phase
	while read -r volume path class phase; do
		[[ "$class $phase" =~ ^(standard|shared)" Released"$ ]] || continue
		# Whoever may write volumes does not get to say what is deleted on the host.
		[[ $path == "$RUN"/pv/* && $path != *..* ]] || continue
		rm -rf "$path"
		kubectl delete pv "$volume"
	done
}

storage() {
	watch_forever pvc -A -o jsonpath='{.metadata.uid} {.metadata.namespace} {.metadata.name} {.spec.resources.requests.storage} {.spec.accessModes[0]} {.spec.storageClassName} {.status.phase} {.metadata.annotations.volume\.kubernetes\.io/selected-node}{"\n"}' | provision &
	watch_forever pv -o jsonpath='{.metadata.name} {.spec.local.path} {.spec.storageClassName} {.status.phase}{"\n"}' | reclaim
}
