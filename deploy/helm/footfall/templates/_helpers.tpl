{{- define "footfall.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 42 | trimSuffix "-" -}}
{{- end -}}

{{/* A name of services and of StatefulSets, which leave room for -inference and what Kubernetes adds to the names of pods and
their revisions: 63 bytes in all, without dots, which a release may have. */}}
{{- define "footfall.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 42 | trimSuffix "-" -}}
{{- else if contains (include "footfall.name" .) .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 42 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "footfall.name" .) | replace "." "-" | trunc 42 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "footfall.selector" -}}
app.kubernetes.io/name: {{ include "footfall.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "footfall.labels" -}}
{{ include "footfall.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: footfall
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "footfall.image" -}}
{{- $image := .image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default .root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{/* What values.schema.json cannot say. */}}
{{- define "footfall.check" -}}
{{- if not .Values.log.secretName }}{{ fail "log.secretName: name the secret that holds RabbitMQ's URL" }}{{ end -}}
{{- if not .Values.store.secretName }}{{ fail "store.secretName: name the secret that holds PostgreSQL's URL" }}{{ end -}}
{{- $tls := or .Values.tls.secretName .Values.tls.certManager.issuerName -}}
{{- if and .Values.tls.secretName .Values.tls.certManager.issuerName }}{{ fail "tls.secretName: certificates come from there or from tls.certManager: choose one" }}{{ end -}}
{{- if and .Values.insecure $tls }}{{ fail "insecure: is true, and tls says where certificates are: choose one" }}{{ end -}}
{{- if and (not .Values.insecure) (not (and $tls .Values.auth.tokensSecretName .Values.gossip.keysSecretName)) -}}
{{ fail "tls.certManager.issuerName (or tls.secretName), auth.tokensSecretName, gossip.keysSecretName: name all three, or set insecure to true to try it out" }}
{{- end -}}
{{- if and .Values.monitoring.serviceMonitor.enabled (not .Values.insecure) (not .Values.monitoring.serviceMonitor.tokenSecretName) }}{{ fail "monitoring.serviceMonitor.tokenSecretName: name the secret with a token of the role read" }}{{ end -}}
{{- if and .Values.log.tlsClientCertificate (not .Values.log.tlsSecretName) }}{{ fail "log.tlsSecretName: name the secret with the certificate that nodes show" }}{{ end -}}
{{- if and .Values.autoscaling.kind (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) }}{{ fail "autoscaling.maxReplicas: is below minReplicas" }}{{ end -}}
{{- if and (eq .Values.autoscaling.kind "keda") (not .Values.autoscaling.keda.prometheusAddress) }}{{ fail "autoscaling.keda.prometheusAddress: say where Prometheus is" }}{{ end -}}
{{- $most := ternary .Values.autoscaling.maxReplicas .Values.nodes.replicas (ne .Values.autoscaling.kind "") -}}
{{- if gt (mul 2 (int $most)) (int .Values.cluster.shards) }}{{ fail (printf "cluster.shards: %d are too few for %d nodes: give each at least two, better eight" (int .Values.cluster.shards) (int $most)) }}{{ end -}}
{{- if and .Values.inference.enabled (has "inference" .Values.nodes.roles) }}{{ fail "nodes.roles: leave inference out where inference.enabled has nodes of its own that score" }}{{ end -}}
{{- if not (regexMatch "^[a-z]" (include "footfall.fullname" .)) }}{{ fail (printf "fullnameOverride: services cannot be called %s, which does not begin with a letter: choose a name" (include "footfall.fullname" .)) }}{{ end -}}
{{- range $where, $pool := dict "nodes" .Values.nodes "inference" .Values.inference -}}
{{- range $key, $_ := $pool.podLabels }}{{ if hasPrefix "app.kubernetes.io/" $key }}{{ fail (printf "%s.podLabels: %s is set by the chart" $where $key) }}{{ end }}{{ end -}}
{{- if hasKey $pool.podAnnotations "checksum/config" }}{{ fail (printf "%s.podAnnotations: checksum/config is set by the chart" $where) }}{{ end -}}
{{- range $env := $pool.extraEnv }}{{ if has $env.name (include "footfall.env" $ | splitList " ") }}{{ fail (printf "%s.extraEnv: %s is set by the chart" $where $env.name) }}{{ end }}{{ end -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.extraEgress) -}}
{{- range $key := list "models.url" "warehouse.url" "trace.endpoint" "inference.servers" -}}
{{- $value := get $.Values.config $key | toString -}}
{{- if and $value (not (hasPrefix "file:" $value)) }}{{ fail (printf "networkPolicy.extraEgress: let nodes reach what config: %s names, or set networkPolicy.enabled to false" $key) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $ours := list "node.name" "node.roles" "node.zone" "http.listen" "http.advertise" "grpc.listen" "grpc.advertise" "cluster.listen" "cluster.advertise" "cluster.join" "cluster.keys_file" "log.url" "log.tls.ca" "log.tls.cert" "log.tls.key" "store.url" "shards" "timezone" "currency" "clock" "insecure" "tls.cert_file" "tls.key_file" "tls.ca_file" "tls.trust_domain" "auth.tokens_file" "drain.timeout" -}}
{{- range $key, $_ := .Values.config }}{{ if has $key $ours }}{{ fail (printf "config: %s is set by other values" $key) }}{{ end }}{{ end -}}
{{- end -}}

{{/* What the environment of a pod has from the chart. */}}
{{- define "footfall.env" -}}
FOOTFALL_NODE_NAME FOOTFALL_NODE_ROLES POD_IP FOOTFALL_HTTP_ADVERTISE FOOTFALL_GRPC_ADVERTISE FOOTFALL_CLUSTER_ADVERTISE FOOTFALL_TLS_CERT_FILE FOOTFALL_TLS_KEY_FILE FOOTFALL_LOG_URL FOOTFALL_STORE_URL GOMEMLIMIT
{{- end -}}

{{/* The configuration that all pods share, as a file. */}}
{{- define "footfall.config" -}}
shards: {{ int .Values.cluster.shards }}
timezone: {{ .Values.cluster.timezone | quote }}
currency: {{ .Values.cluster.currency | quote }}
clock: {{ .Values.cluster.clock }}
http.listen: 0.0.0.0:8080
grpc.listen: 0.0.0.0:8081
cluster.listen: 0.0.0.0:7946
cluster.join: {{ include "footfall.fullname" . }}-gossip.{{ .Release.Namespace }}.svc:7946
drain.timeout: {{ int .Values.shutdown.drainSeconds }}s
logging.format: json
{{- if .Values.insecure }}
insecure: true
{{- else }}
tls.ca_file: /etc/footfall/tls/ca.crt
tls.trust_domain: {{ .Values.tls.trustDomain | quote }}
auth.tokens_file: /etc/footfall/auth/tokens
cluster.keys_file: /etc/footfall/gossip/keys
{{- end }}
{{- if .Values.log.tlsSecretName }}
log.tls.ca: /etc/footfall/log-tls/ca.crt
{{- end }}
{{- if .Values.log.tlsClientCertificate }}
log.tls.cert: /etc/footfall/log-tls/tls.crt
log.tls.key: /etc/footfall/log-tls/tls.key
{{- end }}
{{- range $key, $value := .Values.config }}
{{ $key }}: {{ $value | toJson }}
{{- end }}
{{- end -}}

{{/* A pod of nodes. Takes root, pool (values of nodes or inference), image, roles and component. */}}
{{- define "footfall.pod" -}}
{{- $root := .root -}}
{{- $pool := .pool -}}
metadata:
  labels:
    {{- include "footfall.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    {{- with $pool.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    # Pods start anew, one after the other, when what they have read at their start changes.
    checksum/config: {{ include "footfall.config" $root | sha256sum }}
    {{- with $pool.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "footfall.fullname" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add $root.Values.shutdown.preStopSeconds $root.Values.shutdown.drainSeconds $root.Values.shutdown.graceSeconds }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pool.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $pool.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $pool.nodeSelector }}
  nodeSelector: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pool.tolerations }}
  tolerations: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pool.affinity }}
  affinity: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pool.topologySpread }}
  topologySpreadConstraints:
    {{- range . }}
    - maxSkew: 1
      topologyKey: {{ .topologyKey }}
      whenUnsatisfiable: {{ .whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "footfall.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ $.component }}
      matchLabelKeys: [controller-revision-hash]
    {{- end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: footfall
      image: {{ include "footfall.image" (dict "image" .image "root" $root) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [--config, /etc/footfall/config/footfall.yaml]
      env:
        # The name of the pod is the name of the node: it stays, so its place among the shards does.
        - name: FOOTFALL_NODE_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: FOOTFALL_NODE_ROLES
          value: {{ join "," .roles }}
        - name: POD_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        {{- range $listener, $port := dict "HTTP" 8080 "GRPC" 8081 "CLUSTER" 7946 }}
        - name: FOOTFALL_{{ $listener }}_ADVERTISE
          value: $(POD_IP):{{ $port }}
        {{- end }}
        {{- if not $root.Values.insecure }}
        - name: FOOTFALL_TLS_CERT_FILE
          value: /etc/footfall/tls/{{ ternary "$(FOOTFALL_NODE_NAME)" "tls" (ne $root.Values.tls.secretName "") }}.crt
        - name: FOOTFALL_TLS_KEY_FILE
          value: /etc/footfall/tls/{{ ternary "$(FOOTFALL_NODE_NAME)" "tls" (ne $root.Values.tls.secretName "") }}.key
        {{- end }}
        - name: FOOTFALL_LOG_URL
          valueFrom: {secretKeyRef: {name: {{ $root.Values.log.secretName }}, key: {{ $root.Values.log.secretKey }}}}
        - name: FOOTFALL_STORE_URL
          valueFrom: {secretKeyRef: {name: {{ $root.Values.store.secretName }}, key: {{ $root.Values.store.secretKey }}}}
        - name: GOMEMLIMIT
          value: {{ $pool.goMemoryLimit }}
        {{- with $pool.extraEnv }}{{ toYaml . | nindent 8 }}{{ end }}
      ports:
        - {name: http, containerPort: 8080}
        - {name: grpc, containerPort: 8081}
        - {name: gossip-tcp, containerPort: 7946}
        - {name: gossip-udp, containerPort: 7946, protocol: UDP}
      {{- $scheme := ternary "HTTP" "HTTPS" $root.Values.insecure }}
      # The process listens: until then it connects to broker and databases, for which it takes half a minute.
      startupProbe:
        httpGet: {path: /healthz, port: http, scheme: {{ $scheme }}}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 60
      # All of its place is served, log and store take writes. It drops first when the node is to end.
      readinessProbe:
        httpGet: {path: /readyz, port: http, scheme: {{ $scheme }}}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 1
      # The process answers at all. A broker or database that is away does not make it fail: starting anew would not help.
      livenessProbe:
        httpGet: {path: /healthz, port: http, scheme: {{ $scheme }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      lifecycle:
        # Until everybody has heard that this pod gets no new calls. SIGTERM comes after it, and the node hands its shards over.
        preStop: {sleep: {seconds: {{ int $root.Values.shutdown.preStopSeconds }}}}
      {{- $resources := deepCopy $pool.resources }}
      {{- if $pool.gpuResource }}
      {{- $_ := set $resources "limits" (merge (dict $pool.gpuResource (int $pool.gpus)) (default (dict) $resources.limits)) }}
      {{- end }}
      resources: {{ toYaml $resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: config, mountPath: /etc/footfall/config, readOnly: true}
        - {name: data, mountPath: /var/lib/footfall}
        - {name: tmp, mountPath: /tmp}
        {{- if not $root.Values.insecure }}
        - {name: tls, mountPath: /etc/footfall/tls, readOnly: true}
        - {name: auth, mountPath: /etc/footfall/auth, readOnly: true}
        - {name: gossip, mountPath: /etc/footfall/gossip, readOnly: true}
        {{- end }}
        {{- if $root.Values.log.tlsSecretName }}
        - {name: log-tls, mountPath: /etc/footfall/log-tls, readOnly: true}
        {{- end }}
        {{- if $root.Values.store.tlsSecretName }}
        - {name: store-tls, mountPath: /etc/footfall/store-tls, readOnly: true}
        {{- end }}
        {{- with $pool.extraVolumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    - name: config
      configMap: {name: {{ include "footfall.fullname" $root }}}
    # Log and store are elsewhere: nothing of these two is missed.
    - name: data
      emptyDir: {sizeLimit: {{ $root.Values.scratch.data }}}
    - name: tmp
      emptyDir: {sizeLimit: {{ $root.Values.scratch.tmp }}}
    {{- if not $root.Values.insecure }}
    - name: tls
      {{- if $root.Values.tls.secretName }}
      secret: {secretName: {{ $root.Values.tls.secretName }}, defaultMode: 288}
      {{- else }}
      csi:
        driver: csi.cert-manager.io
        readOnly: true
        volumeAttributes:
          csi.cert-manager.io/issuer-name: {{ $root.Values.tls.certManager.issuerName }}
          csi.cert-manager.io/issuer-kind: {{ $root.Values.tls.certManager.issuerKind }}
          csi.cert-manager.io/issuer-group: {{ $root.Values.tls.certManager.issuerGroup }}
          csi.cert-manager.io/duration: {{ $root.Values.tls.certManager.duration }}
          csi.cert-manager.io/uri-sans: footfall://{{ $root.Values.tls.trustDomain }}/node/${POD_NAME}
          {{- $name := include "footfall.fullname" $root }}
          csi.cert-manager.io/dns-names: ${POD_NAME}.{{ $name }}-gossip.${POD_NAMESPACE}.svc,{{ $name }}.${POD_NAMESPACE}.svc,{{ $name }}.${POD_NAMESPACE}.svc.cluster.local
          csi.cert-manager.io/key-usages: digital signature,server auth,client auth
          csi.cert-manager.io/fs-group: "65532"
      {{- end }}
    - name: auth
      secret: {secretName: {{ $root.Values.auth.tokensSecretName }}, defaultMode: 288, items: [{key: {{ $root.Values.auth.tokensSecretKey }}, path: tokens}]}
    - name: gossip
      secret: {secretName: {{ $root.Values.gossip.keysSecretName }}, defaultMode: 288, items: [{key: {{ $root.Values.gossip.keysSecretKey }}, path: keys}]}
    {{- end }}
    {{- with $root.Values.log.tlsSecretName }}
    - name: log-tls
      secret: {secretName: {{ . }}, defaultMode: 288}
    {{- end }}
    {{- with $root.Values.store.tlsSecretName }}
    - name: store-tls
      secret: {secretName: {{ . }}, defaultMode: 288}
    {{- end }}
    {{- with $pool.extraVolumes }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end -}}
