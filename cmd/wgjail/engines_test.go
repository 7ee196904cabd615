package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// engines prepares podman and Docker in this world, with an image called
// busybox, which has a web page in /srv.
func (l *lab) engines(t *testing.T) {
	t.Helper()
	cgroups(t)
	dir := t.TempDir()
	script := `set -e
mkdir -p rootfs/bin rootfs/srv rootfs/etc rootfs/tmp
cp "$(command -v busybox)" rootfs/bin/busybox
for tool in sh cat ip sleep wget httpd; do ln -s busybox rootfs/bin/$tool; done
echo hello from a container >rootfs/srv/index.html
tar -C rootfs -cf rootfs.tar .
mkdir -p /etc/containers
cat >/etc/containers/storage.conf <<-CONF
	[storage]
	driver = "vfs"
	graphroot = "$PWD/storage"
	runroot = "/run/containers/storage"
CONF
# The limits are those of a test's process, which may have few.
cat >/etc/containers/containers.conf <<-CONF
	[containers]
	default_ulimits = ["nofile=1024:$(ulimit -Hn)", "nproc=1024:$(ulimit -Hu | sed s/unlimited/9000/)"]
	[engine]
	runtime = "runc"
CONF
podman import rootfs.tar busybox:latest`
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("prepare podman: %v\n%s", err, out)
	}
	daemon := l.Host.Start(t, exec.Command("dockerd", "--data-root", filepath.Join(dir, "docker"), "--exec-root", "/run/docker",
		"--storage-driver", "vfs", "-H", "unix:///run/docker.sock", "--pidfile", "/run/docker.pid"))
	t.Setenv("DOCKER_HOST", "unix:///run/docker.sock")
	t.Cleanup(func() {
		daemon.Signal(t, unix.SIGTERM)
		daemon.Wait()
	})
	world.Eventually(t, "dockerd", func() error {
		return exec.Command("docker", "import", filepath.Join(dir, "rootfs.tar"), "busybox:latest").Run()
	})
}

// cgroups mounts the control groups, which a world's new /sys has not: of the
// first version where the machine has that, else of the second.
func cgroups(t *testing.T) {
	t.Helper()
	const dir = "/sys/fs/cgroup"
	if err := unix.Mount("cgroup", dir, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	mounted := 0
	for _, name := range []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if unix.Mount("cgroup", path, "cgroup", 0, name) == nil {
			mounted++
		}
	}
	if mounted > 0 {
		return
	}
	if err := unix.Mount("cgroup2", dir, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
}
