// Command pause holds a pod's namespaces open: the only process of its sandbox container.
//
// It is static and stands alone in its image, because the read-only mounts that carry the
// code of all other containers do not reach a sandbox.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
