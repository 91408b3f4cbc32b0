//! The proxies that are measured, each with the same work: keep-alive on both sides, one path prefix, two backends
//! at 200 and 100, `X-Forwarded-For`, `-Proto` and `-Host` added, one worker.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::client::Connection;
use crate::running::{PROXY_CORE, Running, START_LIMIT, pinned};
use crate::{backend, objects, programs};

pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) address: SocketAddr,
    pub(crate) process: Running,
}

/// A directory for configuration files, removed when dropped.
pub(crate) struct Workspace {
    pub(crate) path: PathBuf,
}

impl Workspace {
    pub(crate) fn new() -> Result<Workspace> {
        let path = std::env::temp_dir().join(format!("weir-bench-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Workspace { path })
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Nothing but our own files is lost with it, and nothing is lost if it stays.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Starts all; Weir is the last.
pub(crate) fn start_all(workspace: &Workspace, backends: [u16; 2]) -> Result<Vec<Proxy>> {
    let mut proxies =
        vec![nginx(workspace, backends)?, haproxy(workspace, backends)?, weir(workspace, backends)?];
    for proxy in &mut proxies {
        wait_until_it_answers(proxy)?;
        check_work(proxy)?;
    }
    Ok(proxies)
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn program(name: &str) -> Result<PathBuf> {
    programs::path(name).with_context(|| format!("{name} is not installed"))
}

fn nginx(workspace: &Workspace, backends: [u16; 2]) -> Result<Proxy> {
    let program = program("nginx")?;
    let address = free_address()?;
    let directory = workspace.path.display();
    let [a, b] = backends;
    let [weight_a, weight_b] = objects::WEIGHTS;
    let text = format!(
        "daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr error;
events {{ worker_connections 8192; use epoll; multi_accept on; }}
http {{
  access_log off; tcp_nodelay on; keepalive_timeout 300s; keepalive_requests 1000000000;
  client_body_temp_path {directory}/nginx-body; proxy_temp_path {directory}/nginx-proxy;
  fastcgi_temp_path {directory}/nginx-fastcgi; uwsgi_temp_path {directory}/nginx-uwsgi;
  scgi_temp_path {directory}/nginx-scgi;
  upstream be {{
    server 127.0.0.1:{a} weight={weight_a}; server 127.0.0.1:{b} weight={weight_b};
    keepalive 512; keepalive_requests 1000000000; keepalive_timeout 300s;
  }}
  server {{
    listen {address} reuseport;
    location /echo {{
      proxy_pass http://be; proxy_http_version 1.1; proxy_set_header Connection \"\";
      proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;
      proxy_buffer_size 16k; proxy_buffers 16 64k; proxy_busy_buffers_size 256k; proxy_max_temp_file_size 0;
    }}
  }}
}}
"
    );
    let file = workspace.write("nginx.conf", &text)?;
    let mut command = pinned(PROXY_CORE, &shown(&program));
    command.arg("-p").arg(&workspace.path).arg("-c").arg(file);
    let process = Running::start("nginx", &mut command)?;
    Ok(Proxy { name: "nginx", version: programs::version(&program, "-v")?, address, process })
}

fn haproxy(workspace: &Workspace, backends: [u16; 2]) -> Result<Proxy> {
    let program = program("haproxy")?;
    let address = free_address()?;
    let [a, b] = backends;
    let [weight_a, weight_b] = objects::WEIGHTS;
    let text = format!(
        "global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 300s
  timeout client 300s
  timeout server 300s
  timeout http-keep-alive 300s
  option http-keep-alive
  http-reuse always
frontend front
  bind {address}
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  acl echo path_beg /echo
  use_backend be if echo
backend be
  balance roundrobin
  server a 127.0.0.1:{a} weight {weight_a}
  server b 127.0.0.1:{b} weight {weight_b}
"
    );
    let file = workspace.write("haproxy.cfg", &text)?;
    let mut command = pinned(PROXY_CORE, &shown(&program));
    command.arg("-db").arg("-f").arg(file);
    let process = Running::start("HAProxy", &mut command)?;
    Ok(Proxy { name: "HAProxy", version: programs::version(&program, "-v")?, address, process })
}

fn weir(workspace: &Workspace, backends: [u16; 2]) -> Result<Proxy> {
    let program = programs::weir()?;
    let address = free_address()?;
    let directory = workspace.path.join("objects");
    fs::create_dir(&directory)?;
    for (name, text) in objects::files(address.port(), backends) {
        fs::write(directory.join(name), text)?;
    }
    let mut command = pinned(PROXY_CORE, &shown(&program));
    command.arg("serve").arg("-f").arg(directory).args(["--address", "127.0.0.1", "--workers", "1"]);
    let mut process = Running::start("Weir", &mut command)?;
    process.line_with("ready")?;
    Ok(Proxy { name: "Weir", version: programs::version(&program, "--version")?, address, process })
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn wait_until_it_answers(proxy: &mut Proxy) -> Result<()> {
    let started = Instant::now();
    loop {
        proxy.process.check()?;
        let answer = Connection::open(proxy.address).and_then(|mut connection| connection.get("/echo"));
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        let said = answer.map_or_else(|error| error.to_string(), |answer| answer.status.to_string());
        ensure!(started.elapsed() < START_LIMIT, "{} does not answer: {said}", proxy.name);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every proxy adds the same headers and splits 2 to 1; a run that compares different work is worth nothing.
fn check_work(proxy: &Proxy) -> Result<()> {
    let mut connection = Connection::open(proxy.address)?;
    let names = connection.get("/echo/headers")?.text();
    for name in ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"] {
        ensure!(names.lines().any(|line| line == name), "{} sends no {name}: {names}", proxy.name);
    }
    let mut first = 0;
    for _ in 0..300 {
        let answer = connection.get("/echo")?;
        ensure!(answer.status == 200, "{} answered {}", proxy.name, answer.status);
        first += u32::from(answer.body == backend::BODIES[0].as_bytes());
    }
    ensure!(
        (198..=202).contains(&first),
        "{}: {first} of 300 went to the backend with weight 200",
        proxy.name
    );
    let large = connection.get("/echo/16k")?;
    ensure!(large.body.len() == 16 * 1024, "{}: {} bytes instead of 16 KiB", proxy.name, large.body.len());
    Ok(())
}
