//! `healthcheck` succeeds on a 200 alone, and says within its timeout why it fails.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::support::program::Program;
use session_buddy_bridge::PrometheusExporter;

/// The exit code, and standard error; nothing is ever said on standard output.
fn healthcheck(args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let args = ["healthcheck"].into_iter().chain(args.iter().copied());
    let ended = Program::start_in(variables, args).end();
    assert_eq!(ended.stdout, "");
    (ended.code, ended.stderr)
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A server that reads one request, hands its lines to `answer` with the connection, and closes it.
fn server(answer: impl FnOnce(Vec<String>, &mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind(loopback()).unwrap();
    let url = format!("http://{}/-/healthy?a=b", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let request = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        answer(request, &mut stream);
    });
    url
}

#[test]
fn a_bridge_that_works_is_healthy() {
    let exporter = PrometheusExporter::at(loopback());
    exporter.start().unwrap();
    let port = exporter.local_addr().unwrap().port();
    let healthy = (Some(0), String::new());
    assert_eq!(healthcheck(&[&format!("http://127.0.0.1:{port}/-/healthy")], &[]), healthy);
    // On most machines `localhost` is ::1 as well, where nobody listens here.
    let localhost = format!("http://localhost:{port}/-/healthy");
    assert_eq!(healthcheck(&[], &[("SESSION_BUDDY_BRIDGE_HEALTHCHECK_URL", &localhost)]), healthy);

    let (code, said) = healthcheck(&[&format!("http://127.0.0.1:{port}/no-such-page")], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("404 Not Found") && said.contains("/no-such-page"), "{said}");

    exporter.stop();
    let (code, said) = healthcheck(&[&localhost], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("refused") && said.contains("check that the bridge runs"), "{said}");
}

#[test]
fn a_request_is_proper_http() {
    let url = server(|request, stream| {
        let host = format!("Host: {}", stream.local_addr().unwrap());
        let expected = ["GET /-/healthy?a=b HTTP/1.1", &host, "Connection: close"];
        let answer: &[u8] = if request == expected { b"HTTP/1.1 200 OK\r\n\r\n" } else { b"HTTP/1.1 400 Bad\r\n\r\n" };
        // Byte by byte: an answer may come in any number of pieces.
        for byte in answer {
            let _ = stream.write_all(&[*byte]);
        }
    });
    assert_eq!(healthcheck(&[&url], &[]), (Some(0), String::new()));
}

#[test]
fn what_is_no_200_is_shown_cut_short() {
    let long = "x".repeat(100_000);
    for (answer, shown) in [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP/1.1 503 Service Unavailable"),
        ("HTTP/1.1 2000 OK\r\n", "HTTP/1.1 2000 OK"),
        ("SSH-2.0-\u{1b}[31m 200\r\n", "SSH-2.0-"),
        (&long, "xxxx"),
        ("", "closed without a response"),
    ] {
        let bytes = answer.to_owned().into_bytes();
        let url = server(move |_, stream| drop(stream.write_all(&bytes)));
        let (code, said) = healthcheck(&[&url], &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(shown) && !said.contains('\u{1b}') && said.len() < 1000, "{said}");
    }
}

#[test]
fn silence_is_a_failure_in_time() {
    // The system takes the connection, and nobody ever answers.
    let listener = TcpListener::bind(loopback()).unwrap();
    let url = format!("http://{}/-/healthy", listener.local_addr().unwrap());
    let (code, said) = healthcheck(&["--healthcheck.timeout", "100ms", &url], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("timed out"), "{said}");
}
