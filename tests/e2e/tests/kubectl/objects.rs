//! What several tests start from.

/// Objects of several kinds that no controller changes.
pub const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: shop, tier: back}}
data: {colour: "green", text: "two\nlines", unicode: "größe ✓"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: more, labels: {app: shop}}
binaryData: {blob: AAECAwQF/w==}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden, labels: {app: shop}}
stringData: {password: "s3cret"}
---
apiVersion: v1
kind: Service
metadata: {name: front, labels: {app: shop}}
spec: {clusterIP: None, selector: {app: front}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle, labels: {app: shop}, annotations: {note: "no pods"}}
spec:
  replicas: 0
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec: {containers: [{name: main, image: "example.com/main:1", env: [{name: A, value: b}], ports: [{containerPort: 80}]}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: door, labels: {app: shop}}
spec: {rules: [{host: shop.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: front, port: {number: 80}}}}]}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, labels: {app: shop}}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, list]}]
"#;
