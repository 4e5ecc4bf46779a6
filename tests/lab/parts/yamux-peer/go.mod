module lab/yamux-peer

go 1.26.0

require (
	github.com/gorilla/websocket v1.5.3
	github.com/hashicorp/yamux v0.1.2
)
