"""Follow deploy/README.md to the letter: `make test-guide`, as root.

Each machine of the guide is a container that systemd boots, with the files of this one underneath, in
a network that they share. It has systemd's units, Debian's nginx and PostgreSQL as they are, and none
of the variables of whoever runs the tests. Stand-ins are there for apt and certbot only, which would
need the internet. It takes a minute or two, so this is not a part of `make test`.
"""

import contextlib
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import CHECKOUT, copy_checkout, run_program, tools

GUIDE = (CHECKOUT / "deploy/README.md").read_text()
BLOCKS = re.findall(r"^```(?:sh|ini|nginx)\n(.*?)^```$", GUIDE, re.M | re.S)
TIMEOUT = 120  # seconds for a block
PASSWORD = "the-password-of-fense"
ADDRESSES = {  # those of the guide
    "fense": ("192.0.2.21", "fense.example"),
    "second": ("192.0.2.22", "second.example"),
    "balancer": ("192.0.2.20", "balancer.example"),
    "db": ("192.0.2.10", "db.example db1.example db2.example"),
}
SERVICE = "/opt/fense-admin/bin/fense-admin"

# What an ordinary shell of root has.
SHELL = ["env", "-i", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"]
SHELL += ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "bash", "-e"]

# Everything below ends with the shell that runs this, which is the first process of its namespace.
NETWORK = """
set -e
mount -t tmpfs tmpfs "$1"
mount -t tmpfs tmpfs /run
ip link set lo up
ip link add bridge type bridge
ip link set bridge up
echo ready
exec cat
"""

BOOT = """
set -e
folder=$1 name=$2
for group in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
  [ -e $group/cgroup.procs ] || continue
  mkdir $group/$name
  echo 0 >$group/$name/cgroup.procs
done
mkdir -p $folder/changed $folder/work $folder/root
mount -t overlay overlay -o lowerdir=/,upperdir=$folder/changed,workdir=$folder/work $folder/root
: >$folder/root/etc/machine-id
exec systemd-nspawn --quiet --directory=$folder/root --machine=$name --register=no --keep-unit \\
  --link-journal=no --network-bridge=bridge --console=pipe --boot -- --unit=basic.target
"""

APT = """#!/bin/sh -e
# Debian starts what it installs. Nothing else of it is needed: it is there already.
[ "$1" = install ]
systemctl start nginx
"""

CERTBOT = """#!/bin/bash -e
# certbot as the guide calls it, with an authority that these tests trust.
[ "$1 $2 $3 $5" = "certonly --standalone --domain --deploy-hook" ]
name=$4
free='import socket; socket.create_server(("", 80)).close()'
for second in 1 2 3 4; do python3 -c "$free" 2>/dev/null && break; sleep 1; done  # nginx reloads
python3 -c "$free"
folder=/etc/letsencrypt/live/$name
mkdir -p $folder
/authority/sign $name $folder/privkey.pem $folder/fullchain.pem
"""

SIGN = """#!/bin/bash -e
# sign NAMES KEY CERTIFICATE
cd /authority
names=$(printf ',DNS:%s' $1)
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test -keyout $2 \\
  -addext "subjectAltName=${names#,}" 2>/dev/null |
  openssl x509 -req -CA ca.crt -CAkey ca.key -days 1 -copy_extensions copy -out $3 2>/dev/null
"""

SERVER = """
data=/var/lib/guide
install -d -o postgres -m 700 $data
/authority/sign "db.example db1.example db2.example" $data.key $data.crt
chown postgres $data.key
programs=$(echo /usr/lib/postgresql/*/bin)
cd /
setpriv --reuid=postgres --regid=postgres --init-groups $programs/initdb -D $data --no-sync >/dev/null
cat >$data/pg_hba.conf <<END
local all all peer
hostssl all all all scram-sha-256
END
systemd-run --quiet --unit=server --uid=postgres --property=RuntimeDirectory=postgresql \\
  $programs/postgres -D $data -c listen_addresses='*' -c unix_socket_directories=/run/postgresql \\
  -c ssl=on -c ssl_cert_file=$data.crt -c ssl_key_file=$data.key
until $programs/pg_isready --quiet --host=/run/postgresql; do sleep 0.1; done
"""


def block(beginning):
    """Return the only block of the guide that begins with this."""
    (found,) = (text for text in BLOCKS if text.startswith(beginning))
    return found


def with_values(text, *pairs):
    """Return the text with the reader's placeholders replaced."""
    for placeholder, value in pairs:
        assert placeholder in text
        text = text.replace(placeholder, value)
    return text


def children(pid):
    for thread in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (thread / "children").read_text().split())


def wait_for(condition):
    deadline = time.monotonic() + TIMEOUT
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


class Machine:
    """A machine that has booted; `paste` runs text in a shell of root's that stays open."""

    def __init__(self, machines, network, folder, name, packages):
        self.folder, self.name = folder / name, name
        self.id = f"fense-{os.getpid()}-{name}"
        self.init = self.shell = None
        command = ["nsenter", f"--target={network}", "--mount", "--net", "--pid", "sh", "-c", BOOT]
        command += ["sh", self.folder, self.id]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        machines.callback(self.close)
        self.init = wait_for(self.find_init)
        command = ["nsenter", f"--target={self.init}", "--all", *SHELL]
        self.shell = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        address = ADDRESSES[name][0]
        hosts = "\n".join(f"{one} {also}" for one, also in ADDRESSES.values())
        self.paste("until [ -S /run/systemd/private ]; do sleep 0.1; done")
        self.paste("systemctl is-system-running --wait || systemctl --failed")
        self.paste(f"ip address add {address}/24 dev host0 && ip link set host0 up")
        self.paste(f"hostname {name}; printf '127.0.0.1 localhost\\n%s\\n' '{hosts}' >/etc/hosts")
        self.paste("rm -rf /etc/xdg/pip /root/.config /root/.pip")  # what this machine's pip needs
        self.write("/etc/pip.conf", "[global]\nno-index = true\nfind-links = /packages\n")
        self.write("/usr/local/sbin/apt", APT, 0o755)
        self.write("/usr/local/sbin/certbot", CERTBOT, 0o755)
        self.copy(packages / "wheels", "/packages")
        self.copy(packages / "authority", "/authority")
        self.paste("cp /authority/ca.crt /usr/local/share/ca-certificates/")
        self.paste("update-ca-certificates 2>/dev/null")

    def find_init(self):
        assert self.process.poll() is None, self.process.stdout.read().decode()
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(FileNotFoundError):
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    return pid
                found += children(pid)
        return None

    def path(self, path):
        return Path(f"/proc/{self.init}/root{path}")

    def write(self, path, text, mode=0o644):
        self.path(path).write_text(text)
        self.path(path).chmod(mode)

    def copy(self, source, target):
        run_program("cp", "-r", source, self.path(target), cwd="/")

    def paste(self, text, typed="", user=None):
        """Run it, as another user in a separate shell. All of it must succeed.

        Return what it printed.
        """
        for path, content in (("block", text), ("typed", typed), ("printed", ""), ("ended", "")):
            self.write(f"/run/{path}", content)
        run = f"runuser --user={user} -- bash -e /run/block" if user else ". /run/block"
        self.shell.stdin.write(f"{run} </run/typed >/run/printed 2>&1; echo 0 >/run/ended\n")
        self.shell.stdin.flush()
        printed, ended = self.path("/run/printed"), self.path("/run/ended")
        deadline = time.monotonic() + TIMEOUT
        while not ended.read_text():
            if self.shell.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{self.name}: {text}\n{printed.read_text()}\n{self.logs()}")
            time.sleep(0.02)
        return printed.read_text()

    def logs(self):
        command = ["nsenter", f"--target={self.init}", "--all", "journalctl", "--no-pager", "-n60"]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT).stdout

    def edit(self, unit, text):
        """Do the same as `systemctl edit` with this text typed into its editor."""
        folder = f"/etc/systemd/system/{unit}.d"
        self.paste(f"mkdir {folder}")
        self.write(f"{folder}/override.conf", text)
        self.paste("systemctl daemon-reload")

    def close(self):
        if self.init:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.init, signal.SIGKILL)
        for process in filter(None, (self.shell, self.process)):
            process.kill()
            process.communicate(timeout=TIMEOUT)
        for group in ("", "systemd/", "unified/"):
            command = ["find", f"/sys/fs/cgroup/{group}{self.id}", "-depth", "-type", "d"]
            subprocess.run([*command, "-exec", "rmdir", "{}", ";"], capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with the wheels that the guide installs, a repository and an authority."""
    tools("systemd-nspawn", "ip", "nginx", "openssl", "curl", "git", "pg_ctl")
    if os.geteuid():
        pytest.skip("needs root")
    folder, source = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("source")
    copy_checkout(source)
    python = folder / "environment/bin/python"
    run_program("/usr/bin/python3", "-m", "venv", python.parent.parent, cwd=folder)
    # What pip gets from an index, for the Python that the guide takes.
    wanted = [f"{source}[postgresql]", "setuptools>=77"]
    pip = [python, "-m", "pip", "--quiet", "download", "--dest", folder / "wheels", *wanted]
    run_program(*pip, cwd=folder)
    shutil.rmtree(python.parent.parent)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x", "-C", source]
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "all of it"]):
        run_program(*git, *arguments, cwd=folder)
    authority = folder / "authority"
    authority.mkdir()
    run_program("git", "clone", "-q", "--bare", source, authority / "fense-admin.git", cwd=folder)
    (authority / "sign").write_text(SIGN)
    (authority / "sign").chmod(0o755)
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    run_program(
        *make.split(),
        "-subj",
        "/CN=authority",
        "-keyout",
        "ca.key",
        "-out",
        "ca.crt",
        cwd=authority,
    )
    return folder


@pytest.fixture(scope="module")
def boot(packages, tmp_path_factory):
    """Boots the machine of this name. All end with their network."""
    folder = tmp_path_factory.mktemp("machines")
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with contextlib.ExitStack() as machines:
        network = subprocess.Popen(
            [*command, "sh", "-c", NETWORK, "sh", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        machines.callback(network.communicate, timeout=TIMEOUT)
        machines.callback(network.kill)
        assert network.stdout.readline() == "ready\n"
        (inside,) = children(network.pid)
        yield lambda name: Machine(machines, inside, folder, name, packages)


def install(machine):
    """The first part of the guide. Returns the machine."""
    machine.paste("git clone -q /authority/fense-admin.git /root/fense-admin; cd /root/fense-admin")
    name = ADDRESSES[machine.name][1]
    machine.paste(with_values(block("apt install"), ("fense.example  # yours", name)))
    return machine


def created(machine, url="https://$name"):
    """Create an account with the service key; return how many there are then."""
    machine.paste(
        'body=$(printf \'{"api_key": "%s", "name": "Acme", "email": "a@acme.example"}\''
        " $(openssl rand -hex 16))\n"
        f'curl -sf {url}/accounts -H "x-api-key: $key" -H "Content-Type: application/json" -d "$body"'
    )
    usage = machine.paste(f'curl -sf {url}/accounts/usage -H "x-api-key: $key"')
    return usage.count("fense_account_id")


@pytest.fixture(scope="module")
def vm(boot):
    """The machine of the guide's first part."""
    machine = install(boot("fense"))
    assert "accounts" in machine.paste(block("key=$("))
    return machine


def test_a_small_vm_is_monitored_backed_up_updated_and_restored(vm):
    assert created(vm) == 1
    assert "POST /accounts 201" in vm.paste("journalctl -u fense-admin")
    assert "POST /accounts 201" in vm.paste("cat /var/log/nginx/fense-admin.log")
    vm.paste(f"{SERVICE} health https://$name")

    update = block("systemctl start fense-admin-backup\ngit pull")
    other = (
        "git clone -q /authority/fense-admin.git other && cd other && git commit -q --allow-empty"
    )
    vm.paste("git config --global user.name x && git config --global user.email x")
    vm.paste(f"(cd /tmp && {other} -m 'a newer version' && git push -q)")
    assert "Fast-forward" in vm.paste(update)
    copies = vm.paste("ls /var/lib/fense-admin/backups").split()
    assert len(copies) == 1
    assert created(vm) == 2
    # Rolling back: the same again without `git pull`
    vm.paste("git checkout -q HEAD~1; mv /var/lib/fense-admin/backups/* /root")
    vm.paste(update.replace("git pull\n", ""))
    assert created(vm) == 3
    vm.paste("git checkout -q main")

    vm.paste(f"mv /root/{copies[0]} /var/lib/fense-admin/backups")
    mine = [("2026-11-23T0320.sqlite3  # yours", copies[0])]
    vm.paste(with_values(block("copy=/var/lib"), *mine))
    assert created(vm) == 2

    keys = "/etc/fense-admin/keys.env"
    for change in ("s/^(DISPUTE_SERVICE_KEYS=.*)/\\1,new-service-key-1a2b/", "s/(KEYS=).*,/\\1/"):
        vm.paste(f"sed -Ei '{change}' {keys} && systemctl restart fense-admin")
        assert created(vm) > 2
        vm.paste("key=new-service-key-1a2b")
    assert created(vm) == 5
    assert vm.paste("systemctl --failed --quiet") == ""


def test_two_nodes_on_a_server_behind_a_balancer(vm, boot):
    db, second, balancer = boot("db"), install(boot("second")), boot("balancer")
    db.paste(SERVER)
    db.paste(block("createuser"), typed=f"{PASSWORD}\n" * 2, user="postgres")
    before = created(vm)
    vm.paste("cd /root/fense-admin; rm -f /var/lib/fense-admin/backups/*")
    mine = [("...", PASSWORD)]
    vm.paste(with_values(block("/opt/fense-admin/bin/pip install '.[postgresql]'"), *mine))
    second.paste("/opt/fense-admin/bin/pip install '.[postgresql]'")
    second.write(
        "/etc/fense-admin/keys.env", vm.path("/etc/fense-admin/keys.env").read_text(), 0o600
    )
    nodes = {vm: "192.0.2.21", second: "192.0.2.22"}
    line = with_values(block("FENSE_ADMIN_DATABASE=postgresql://fense:...@db.example"), *mine)
    for node, address in nodes.items():
        node.paste(f"cat >>/etc/fense-admin/keys.env <<'END'\n{line}END")
        node.paste("systemctl disable --now fense-admin-backup.timer")
        node.edit("fense-admin.service", block("[Service]"))
        node.edit("fense-admin.socket", with_values(block("[Socket]"), ("192.0.2.21", address)))
    for node in nodes:
        node.paste("systemctl restart fense-admin.socket fense-admin")

    balancer.paste(
        "apt install nginx; rm /etc/nginx/sites-enabled/default; systemctl reload nginx\n"
        "name=fense.example; certbot certonly --standalone --domain $name --deploy-hook x"
    )
    site = re.sub("^upstream .*?^}$", block("upstream"), (CHECKOUT / "deploy/nginx.conf").read_text(), flags=re.M | re.S)  # fmt: skip
    balancer.write("/etc/nginx/sites-enabled/fense-admin", site)
    hosts = "sed -i 's/^192.0.2.21/192.0.2.20/' /etc/hosts"  # the name is the balancer's now
    balancer.paste(f"systemctl reload nginx; {hosts}; key={vm.paste('echo $key')}")
    assert created(balancer) == before + 1
    for address in nodes.values():
        balancer.paste(f"curl -sf http://{address}:8642/healthz")
    for node in nodes:
        node.paste("systemctl restart fense-admin")
        assert created(balancer) > before

    ask = "curl -so /dev/null https://fense.example/healthz"
    balancer.paste("log=/var/log/nginx/fense-admin.log; : >$log")
    second.paste("systemctl kill --signal=STOP fense-admin")
    balancer.paste(f"for one in {{1..20}}; do {ask} & done; wait")
    waits = balancer.paste("cut -d' ' -f6 $log; : >$log").split()
    assert len(waits) == 20
    assert 4 < max(map(float, waits)) < 5
    balancer.paste(f"for one in {{1..10}}; do {ask}; done")
    statuses = balancer.paste("cut -d' ' -f5 $log").split()
    assert statuses == ["200"] * 10  # whichever process of nginx
    second.paste("systemctl kill --signal=CONT fense-admin")

    connected = "SELECT ssl FROM pg_stat_ssl NATURAL JOIN pg_stat_activity WHERE usename = 'fense'"
    assert set(db.paste(f'psql -Atc "{connected}"', user="postgres").split()) == {"t"}
    line = with_values(block("FENSE_ADMIN_DATABASE=postgresql://fense:...@db1.example"), *mine)
    vm.paste(f"cat >>/etc/fense-admin/keys.env <<'END'\n{line}END\nsystemctl restart fense-admin")
    assert created(balancer) == before + 4
    assert "can't" not in vm.paste("journalctl -u fense-admin")

    second.paste(block("systemctl disable --now"))
    second.paste("[ ! -e /opt/fense-admin ]")
    assert created(balancer) == before + 5
    # The way back, "into a file that is not there yet"
    back = re.search(r"fense-admin move .*\n.*", block("/opt/fense-admin/bin/pip install '.[p"))[0]
    back = re.sub(r"(fense-admin\.sqlite3) \\\n *(\S+)", r"\2 /root/\1", back)
    moved = vm.paste(f"PGPASSWORD={PASSWORD} /opt/fense-admin/bin/{back}")
    assert moved == f"fense-admin moved accounts={before + 5}\n"


def test_every_block_of_the_guide_is_run():
    run = re.findall(r'block\("(.*?)"\)', inspect.getsource(sys.modules[__name__]))
    beginnings = [text.encode().decode("unicode_escape") for text in run]
    assert [text for text in BLOCKS if not text.startswith(tuple(beginnings))] == []
