//! Every flag and variable is judged before anything starts: what is right gets through, what is wrong is named.

use std::any::Any;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::in_repository;
use session_buddy_bridge::internals::cli::{Command, Demo, Healthcheck, Record, Replay, Run, parse};
use session_buddy_bridge::internals::demo::DemoSettings;
use session_buddy_bridge::internals::feed::{
    ClientIdentity, Credentials, Minting, Secret, SecretSource, TOKEN_LIFETIME, Timing, TlsFiles, TokenSource,
};
use session_buddy_bridge::internals::ledger::Limits;
use session_buddy_bridge::settings::{
    FeedTarget, LogFormat, LogLevel, LogSettings, PushSettings, PushedSeries, Settings, SettingsError, StateLocation,
};

fn command_in(environment: &[(&str, &str)], args: &[&str]) -> Result<Box<dyn Command>, SettingsError> {
    let found = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
    parse(["session-buddy-bridge"].iter().chain(args), found)
}

/// The command that `args` make, which is a `C`.
fn made_in<C: Command>(environment: &[(&str, &str)], args: &[&str]) -> C {
    let command = command_in(environment, args).unwrap_or_else(|error| panic!("{args:?}: {error}"));
    let command: Box<dyn Any> = command;
    *command.downcast().unwrap_or_else(|_| panic!("{args:?} make another command"))
}

fn settings_in(environment: &[(&str, &str)], args: &[&str]) -> Settings {
    made_in::<Run>(environment, args).settings
}

fn settings(args: &[&str]) -> Settings {
    settings_in(&[], args)
}

fn refusal_in(environment: &[(&str, &str)], args: &[&str]) -> String {
    command_in(environment, args).expect_err("should be refused").to_string()
}

fn refusal(args: &[&str]) -> String {
    refusal_in(&[], args)
}

fn identities(settings: &Settings) -> Vec<&str> {
    settings.feeds.iter().map(|feed| feed.identity.as_str()).collect()
}

fn is_loopback_only(settings: &Settings) -> bool {
    settings.listen.iter().all(|address| address.ip().is_loopback())
}

#[test]
fn without_a_word_the_bridge_runs_with_the_documented_defaults() {
    let defaults = settings(&[]);
    let expected = Settings::new(vec![FeedTarget::new("ws://localhost:8765").unwrap()]);
    // An embedder's bridge keeps nothing unless told to; the command's place is tested below.
    assert_eq!(defaults.state, StateLocation::Default(None));
    let (listen, state) = (expected.listen.clone(), expected.state.clone());
    // A program that embeds the bridge sets its address itself.
    assert_eq!((defaults.is_listen_chosen, expected.is_listen_chosen), (false, true));
    assert_eq!(Settings { listen, is_listen_chosen: true, state, ..defaults.clone() }, expected);
    assert_eq!(defaults.listen[0], SocketAddr::from(([127, 0, 0, 1], 9090)));
    assert!(is_loopback_only(&defaults));

    assert_eq!(expected.telemetry_path, "/metrics");
    assert_eq!(expected.frame_bytes_max, 1 << 20);
    assert_eq!(expected.timing.silence_timeout, Duration::from_secs(15));
    assert_eq!(expected.log, LogSettings { level: LogLevel::Info, format: LogFormat::Logfmt });
    assert_eq!(
        expected.ledger_limits,
        Limits { skills_max: 20_000, remembered_skills_max: 50_000, label_chars_max: 256, ..Limits::default() }
    );
}

const EVERY_FLAG: [(&str, &str); 18] = [
    ("feed.url", "wss://example.org/feed?key=1"),
    ("feed.name", "main"),
    ("feed.skills-db", "/srv/skills.db"),
    ("feed.skill", "pytest-run"),
    ("feed.silence-timeout", "1.5m"),
    ("feed.max-frame-bytes", "4096"),
    ("web.allowed-hosts", "metrics.example"),
    ("web.listen-address", "unix:/run/bridge/http.sock"),
    ("web.socket-mode", "0660"),
    ("web.telemetry-path", "/m/e_t.r-i~cs"),
    ("web.zero-first", "20s"),
    ("state.path", "/somewhere/state.db"),
    ("skills.dir", "/srv/skills"),
    ("limit.skills", "10"),
    ("limit.series", "5000"),
    ("limit.remembered-skills", "20"),
    ("limit.label-chars", "64"),
    ("log.level", "debug"),
];

fn expected_of_every_flag() -> Settings {
    let target = FeedTarget::new("wss://example.org/feed?key=1").unwrap().with_skill("pytest-run");
    Settings {
        feeds: vec![FeedTarget { identity: "main".to_owned(), skills_db: Some("/srv/skills.db".into()), ..target }],
        is_listen_chosen: true,
        listen: Vec::new(),
        listen_unix: vec!["/run/bridge/http.sock".into()],
        socket_mode: Some("660".parse().unwrap()),
        systemd_socket: true,
        web_config: None,
        allowed_hosts: vec!["metrics.example".parse().unwrap()],
        push: PushSettings::default(),
        skills_dirs: vec!["/srv/skills".into()],
        config_file: None,
        telemetry_path: "/m/e_t.r-i~cs".to_owned(),
        has_lifecycle_api: true,
        has_exporter_metrics: false,
        with_created: true,
        zero_first: Duration::from_secs(20),
        ledger_limits: Limits {
            skills_max: 10,
            series_max: 5000,
            remembered_skills_max: 20,
            label_chars_max: 64,
            ..Limits::default()
        },
        frame_bytes_max: 4096,
        timing: Timing { silence_timeout: Duration::from_secs(90), ..Timing::default() },
        state: StateLocation::Path("/somewhere/state.db".into()),
        log: LogSettings { level: LogLevel::Debug, format: LogFormat::Json },
    }
}

#[test]
fn every_flag_is_heard_with_and_without_the_word_run() {
    let mut args: Vec<String> =
        EVERY_FLAG.iter().flat_map(|(flag, value)| [format!("--{flag}"), value.to_string()]).collect();
    args.push("--log.format=json".to_owned());
    args.push("--web.created-timestamps".to_owned());
    args.push("--web.enable-lifecycle".to_owned());
    args.push("--web.disable-exporter-metrics".to_owned());
    args.push("--web.systemd-socket".to_owned());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_eq!(settings(&args), expected_of_every_flag());
    assert_eq!(settings(&[&["run"], args.as_slice()].concat()), expected_of_every_flag());
}

#[test]
fn the_state_is_where_the_xdg_rules_say_unless_told_otherwise() {
    let place = |environment: &[(&str, &str)], args: &[&str]| settings_in(environment, args).state;
    let usual = |path: &str| StateLocation::Default(Some(path.into()));
    assert_eq!(place(&[], &[]), StateLocation::Default(None));
    assert_eq!(place(&[("HOME", "/h")], &[]), usual("/h/.local/state/session-buddy-bridge/state.db"));
    let both = [("HOME", "/h"), ("XDG_STATE_HOME", "/x")];
    assert_eq!(place(&both, &[]), usual("/x/session-buddy-bridge/state.db"));
    assert_eq!(
        place(&[("HOME", "/h"), ("XDG_STATE_HOME", "relative")], &[]),
        usual("/h/.local/state/session-buddy-bridge/state.db")
    );
    assert_eq!(place(&both, &["--state.path", "s.db"]), StateLocation::Path("s.db".into()));
    assert_eq!(place(&both, &["--state.disabled"]), StateLocation::InMemory);
    assert_eq!(place(&[("SESSION_BUDDY_BRIDGE_STATE_DISABLED", "true")], &[]), StateLocation::InMemory);
    assert_eq!(
        place(&[("SESSION_BUDDY_BRIDGE_STATE_DISABLED", "true")], &["--state.disabled=false"]),
        StateLocation::Default(None)
    );
}

#[test]
fn every_variable_is_heard_and_the_flag_wins() {
    let variable = |flag: &str| format!("SESSION_BUDDY_BRIDGE_{}", flag.to_uppercase().replace(['.', '-'], "_"));
    let named: Vec<(String, &str)> = EVERY_FLAG.iter().map(|(flag, value)| (variable(flag), *value)).collect();
    let mut environment: Vec<(&str, &str)> = named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    environment.push(("SESSION_BUDDY_BRIDGE_LOG_FORMAT", "json"));
    environment.push(("SESSION_BUDDY_BRIDGE_WEB_CREATED_TIMESTAMPS", "true"));
    environment.push(("SESSION_BUDDY_BRIDGE_WEB_ENABLE_LIFECYCLE", "true"));
    environment.push(("SESSION_BUDDY_BRIDGE_WEB_DISABLE_EXPORTER_METRICS", "true"));
    environment.push(("SESSION_BUDDY_BRIDGE_WEB_SYSTEMD_SOCKET", "true"));
    assert_eq!(settings_in(&environment, &[]), expected_of_every_flag());
    assert_eq!(settings_in(&environment, &["run"]), expected_of_every_flag());

    let flag_wins = settings_in(&environment, &["--log.level", "trace", "--feed.url", "ws://h:1"]);
    assert_eq!(flag_wins.log.level, LogLevel::Trace);
    assert_eq!(flag_wins.feeds[0].url.as_str(), "ws://h:1/");
}

#[test]
fn what_may_be_repeated_is_a_list_in_a_variable() {
    let settings = settings_in(
        &[
            ("SESSION_BUDDY_BRIDGE_FEED_URL", "ws://a:1, ws://b:2"),
            ("SESSION_BUDDY_BRIDGE_WEB_LISTEN_ADDRESS", "127.0.0.1:1,[::1]:2"),
        ],
        &[],
    );
    assert_eq!(identities(&settings), ["ws://a:1/", "ws://b:2/"]);
    assert_eq!(settings.listen, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse::<SocketAddr>().unwrap()]);
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let names = ["FEED_URL", "FEED_SKILL", "FEED_TOKEN", "FEED_TOKEN_FILE", "WEB_LISTEN_ADDRESS", "LOG_LEVEL"];
    let names = names.map(|name| format!("SESSION_BUDDY_BRIDGE_{name}"));
    let environment = names.each_ref().map(|name| (name.as_str(), ""));
    assert_eq!(settings_in(&environment, &[]), settings(&[]));
}

#[test]
fn a_variable_that_is_refused_is_named() {
    let refused = refusal_in(&[("SESSION_BUDDY_BRIDGE_LOG_LEVEL", "loud")], &["demo"]);
    assert!(
        refused.starts_with("in the environment variable SESSION_BUDDY_BRIDGE_LOG_LEVEL: invalid value 'loud'"),
        "{refused}"
    );
    let refused = refusal_in(&[("SESSION_BUDDY_BRIDGE_LOG_LEVEL", "warn")], &["--log.level", "loud"]);
    assert!(!refused.contains("environment"), "{refused}");
}

#[test]
fn names_pair_up_with_urls() {
    let two = ["--feed.url", "ws://h:1", "--feed.url", "ws://h:1?other"];
    let named = settings(&[&two[..], &["--feed.name", "one", "--feed.name", "two"]].concat());
    assert_eq!(identities(&named), ["one", "two"]);
    assert_eq!(
        refusal(&[&two[..], &["--feed.name", "one"]].concat()),
        "the number of --feed.name (1) differs from the number of --feed.url (2): give one name for each URL, in the same order, or none"
    );
    assert_eq!(
        refusal(&two),
        "two feeds have the identity \"ws://h:1/\" (user, query and fragment of a URL are no part of it): remove one \
         --feed.url, or distinguish them by one --feed.name for each"
    );
    let two = ["--feed.url", "ws://h:1", "--feed.url", "ws://h:2"];
    let beside = settings(&[&two[..], &["--feed.skills-db", "none", "--feed.skills-db", "/a/skills.db"]].concat());
    let databases: Vec<_> = beside.feeds.iter().map(|feed| feed.skills_db.as_deref()).collect();
    assert_eq!(databases, [None, Some(std::path::Path::new("/a/skills.db"))]);
    assert_eq!(
        refusal(&[&two[..], &["--feed.skills-db", "/a/skills.db"]].concat()),
        "the number of --feed.skills-db (1) differs from the number of --feed.url (2): give one for each URL, in the same order, and \"none\" for a feed \
         without a database"
    );
    assert_eq!(
        refusal(&[&two[..], &["--feed.skills-db", "/a", "--feed.skills-db", "/a"]].concat()),
        "--feed.skills-db \"/a\" is given for two feeds: it would be counted twice; leave one of them out"
    );
    let many: Vec<String> =
        (0..65).flat_map(|port| ["--feed.url".to_owned(), format!("ws://h:{}", port + 1)]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(settings(&many[..128]).feeds.len(), 64);
    assert_eq!(
        refusal(&many),
        "--feed.url was given 65 times, and a bridge subscribes to at most 64 feeds: run another bridge for the rest, with a state of its own"
    );
    let two = ["--feed.url", "ws://h:1", "--feed.url", "ws://h:1?other"];
    let twice = refusal(&[&two[..], &["--feed.name", "same", "--feed.name", "same"]].concat());
    assert!(twice.starts_with("two feeds have the identity \"same\""), "{twice}");
}

#[test]
fn a_name_must_be_fit_for_a_label() {
    assert_eq!(refusal(&["--feed.skill", " "]), "--feed.skill \" \" is empty: give a name, or leave it out");
    assert_eq!(refusal(&["--feed.name", "a\nb"]), "--feed.name \"a\\nb\" holds a control character: leave it out");
    assert_eq!(
        refusal(&["--feed.skill", &"é".repeat(17), "--limit.label-chars", "16"]),
        format!(
            "--feed.skill \"{}\" has 17 characters, more than the 16 that --limit.label-chars allows: shorten it",
            "é".repeat(17)
        )
    );
    assert!(refusal(&["replay", "f", "--feed.skill", ""]).contains("is empty"));
}

#[test]
fn a_url_that_names_no_feed_is_refused() {
    for (url, complaint) in [
        (
            "http://localhost:8765",
            "\"http://localhost:8765\" is a web address, but a feed speaks WebSocket: did you mean \"ws://localhost:8765/\"?",
        ),
        (
            "localhost:8765",
            "\"localhost:8765\" does not start with ws:// or wss://: write for example ws://localhost:8765",
        ),
        ("ws://", "\"ws://\" is not a URL (empty host): write ws://HOST:PORT or wss://HOST:PORT"),
        (
            "ws://h:65536",
            "\"ws://h:65536\" is not a URL (invalid port number): write ws://HOST:PORT or wss://HOST:PORT",
        ),
        ("ws://h/#x", "\"ws://h/#…\" has a fragment (#), which no server ever sees: leave it out, or write # as %23"),
        (
            "ws://h:0",
            "\"ws://h:0\" has port 0, to which nobody can connect: give the port of the server, 8765 by default",
        ),
        (
            "ws://me:secret@h/?key=secret",
            "\"ws://***@h/?…\" holds a user name or password, which a feed does not use: put a token into the \
             environment variable SESSION_BUDDY_BRIDGE_FEED_TOKEN, or into a file named by --feed.token-file",
        ),
    ] {
        assert_eq!(refusal(&["--feed.url", url]), format!("--feed.url {complaint}"));
        assert_eq!(refusal(&["record", "f", "--feed.url", url]), format!("--feed.url {complaint}"));
    }
}

#[test]
fn a_token_comes_from_the_environment_or_from_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let (full, empty) = (directory.path().join("full"), directory.path().join("empty"));
    fs::write(&full, "secret\n").unwrap();
    fs::write(&empty, " \n").unwrap();
    let path = |file: &std::path::Path| file.to_str().unwrap().to_owned();
    let variable = ("SESSION_BUDDY_BRIDGE_FEED_TOKEN", " secret\n");

    let from_variable = settings_in(&[variable], &["--feed.url", "ws://a", "--feed.url", "ws://b"]);
    for feed in &from_variable.feeds {
        assert_eq!(feed.credentials.token, Some(TokenSource::Static(Secret::new("secret"))));
    }
    assert!(!format!("{from_variable:?}").contains("secret"));
    let from_file = settings(&["--feed.token-file", &path(&full)]);
    assert_eq!(from_file.feeds[0].credentials.token, Some(TokenSource::File(full.clone())));

    assert_eq!(
        refusal(&["--feed.token-file", &path(&empty)]),
        format!("--feed.token-file \"{}\" is empty: write the token into it", empty.display())
    );
    let missing = refusal(&["--feed.token-file", &path(&directory.path().join("missing"))]);
    assert!(missing.contains("missing\" cannot be read (No such file"), "{missing}");
    let flag = refusal(&["--feed.token", "secret"]);
    assert!(flag.contains("unexpected argument '--feed.token'"), "{flag}");
}

#[test]
fn a_token_is_made_of_a_secret_from_the_environment_or_from_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    fs::write(&file, "hush\n").unwrap();
    let minted = |secret| Some(TokenSource::Minted(Minting { secret, lifetime: TOKEN_LIFETIME }));

    let from_variable = settings_in(&[("SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET", " hush")], &[]);
    // As it is: the server does not trim its own either.
    assert_eq!(from_variable.feeds[0].credentials.token, minted(SecretSource::Static(Secret::new(" hush"))));
    assert!(!format!("{from_variable:?}").contains("hush"));
    let from_file = settings(&["--feed.jwt-secret-file", file.to_str().unwrap()]);
    assert_eq!(from_file.feeds[0].credentials.token, minted(SecretSource::File(file.clone())));

    let too_long = refusal_in(&[("SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET", &"x".repeat(8193))], &[]);
    assert_eq!(too_long, "SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET is longer than 8192 bytes: is it the right one?");
    fs::write(&file, "\n").unwrap();
    assert_eq!(
        refusal(&["record", "f", "--feed.jwt-secret-file", file.to_str().unwrap()]),
        format!("--feed.jwt-secret-file \"{}\" is empty: write the JWT secret into it", file.display())
    );
}

#[test]
fn a_token_has_one_source() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "hush").unwrap();
    let file = file.to_str().unwrap();
    let sources = [
        ("SESSION_BUDDY_BRIDGE_FEED_TOKEN", "hush", "SESSION_BUDDY_BRIDGE_FEED_TOKEN"),
        ("SESSION_BUDDY_BRIDGE_FEED_TOKEN_FILE", file, "--feed.token-file"),
        ("SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET", "hush", "SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET"),
        ("SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET_FILE", file, "--feed.jwt-secret-file"),
    ];
    for (at, (variable, value, first)) in sources.into_iter().enumerate() {
        for (other_variable, other_value, second) in &sources[at + 1..] {
            assert_eq!(
                refusal_in(&[(variable, value), (other_variable, other_value)], &[]),
                format!("{first} and {second} both set the token: give only one of them")
            );
        }
    }
}

#[test]
fn headers_and_certificates_come_from_files_that_are_looked_into() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = directory.path().join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
    let (headers, forbidden) = (write("headers", "X-Key: hush\n"), write("forbidden", "X-Key: hush\nHost: hush\n"));
    let (certificate, key) = (write("certificate", &cert.pem()), write("key", &signing_key.serialize_pem()));

    let encrypted = ["--feed.url", "wss://h", "--feed.url", "ws://h"];
    let of_files = ["--feed.headers-file", &headers, "--feed.ca-file", &certificate];
    let of_client = ["--feed.cert-file", &certificate, "--feed.key-file", &key];
    let settings = settings(&[&encrypted[..], &of_files, &of_client].concat());
    let expected = Credentials {
        token: None,
        headers_file: Some(headers.clone().into()),
        tls: TlsFiles {
            ca: Some(certificate.clone().into()),
            identity: Some(ClientIdentity { certificate: certificate.clone().into(), key: key.clone().into() }),
        },
    };
    assert!(settings.feeds.iter().all(|feed| feed.credentials == expected));

    let missing = directory.path().join("missing").to_str().unwrap().to_owned();
    for (args, complaint) in [
        (
            &["--feed.headers-file", &forbidden][..],
            format!(
                "--feed.headers-file \"{forbidden}\" has a line 2 that sets a header that belongs to the WebSocket \
                 handshake: leave it out"
            ),
        ),
        (
            &["--feed.ca-file", &key],
            format!(
                "--feed.ca-file \"{key}\" holds no certificate in PEM: write one into it, from -----BEGIN to -----END"
            ),
        ),
        (
            &["--feed.cert-file", &certificate],
            "--feed.cert-file is of no use without --feed.key-file: give both".to_owned(),
        ),
        (&["--feed.key-file", &key], "--feed.key-file is of no use without --feed.cert-file: give both".to_owned()),
        (
            &["--feed.cert-file", &certificate, "--feed.key-file", &missing],
            format!(
                "--feed.key-file \"{missing}\" cannot be read (No such file or directory (os error 2)): give a regular \
                 file that this user may read"
            ),
        ),
    ] {
        assert_eq!(refusal(&[&["--feed.url", "wss://h"], args].concat()), complaint);
    }
    for (args, flag) in [(&of_files[2..], "--feed.ca-file"), (&of_client[..], "--feed.cert-file")] {
        assert_eq!(
            refusal(args),
            format!("{flag} is for wss:// and no --feed.url starts with that: encrypt a feed, or leave it out")
        );
    }
}

#[cfg(unix)]
#[test]
fn a_token_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let found = |name: &str| (name == "SESSION_BUDDY_BRIDGE_FEED_TOKEN").then(|| OsString::from_vec(vec![0xff]));
    let refused = parse(["session-buddy-bridge"], found).unwrap_err();
    assert_eq!(refused.to_string(), "SESSION_BUDDY_BRIDGE_FEED_TOKEN is not valid UTF-8: correct it, or unset it");
}

#[test]
fn listening_beyond_this_machine_can_be_told() {
    let listening = |address| settings(&["--web.listen-address", address]);
    assert!(is_loopback_only(&listening("localhost:9090")));
    assert!(is_loopback_only(&listening("[::1]:0")));
    let wide = listening(":9101");
    assert!(wide.listen.iter().all(|address| !address.ip().is_loopback()), "{wide:?}");
    assert_eq!(wide.listen[0].port(), 9101);
}

#[test]
fn an_address_is_listened_on_once() {
    let twice = settings(&["--web.listen-address", "127.0.0.1:1", "--web.listen-address", "127.0.0.1:1"]);
    assert_eq!(twice.listen.len(), 1);
    let free = settings(&["--web.listen-address", "127.0.0.1:0", "--web.listen-address", "127.0.0.1:0"]);
    assert_eq!(free.listen.len(), 2, "port 0 is another one each time");
}

#[test]
fn an_address_that_is_none_is_refused() {
    for (address, complaint) in [
        ("9090", "has no port: write HOST:PORT, for example localhost:9090, or :9090 for every interface"),
        ("http://localhost:9090/", "is a URL or a path: write HOST:PORT alone, for example localhost:9090"),
        ("localhost:65536", "has the port \"65536\": a port is a number from 1 to 65535, or 0 for one that is free"),
        ("::1", "is not an IPv6 address in brackets: write [ADDRESS]:PORT, for example [::1]:9090"),
    ] {
        let expected = format!("--web.listen-address \"{address}\" {complaint}");
        assert_eq!(refusal(&["--web.listen-address", address]), expected);
    }
}

#[test]
fn a_client_certificate_or_key_that_is_not_supported_is_refused_with_a_remedy() {
    for (name, flag, remedy) in [
        ("version1", "--feed.cert-file", "issue one of version 3"),
        ("rsa1024", "--feed.key-file", "or of RSA with 2048 bits or more"),
        ("p521", "--feed.key-file", "create one for the curve P-256 or P-384"),
    ] {
        let file = |end: &str| in_repository("tests/fixtures/certificates").join(format!("{name}.{end}"));
        let (certificate, key) = (file("pem").display().to_string(), file("key").display().to_string());
        let refused = refusal(&["--feed.url=wss://h", "--feed.cert-file", &certificate, "--feed.key-file", &key]);
        assert!(refused.starts_with(flag) && refused.contains(remedy), "{refused}");
    }
}

#[test]
fn a_mode_that_no_socket_has_is_refused() {
    for mode in ["1777", "0800", "66", "rw-rw----", "+660", "0o660", "00660"] {
        let refused = refusal(&["--web.listen-address=unix:/run/http.sock", "--web.socket-mode", mode]);
        assert!(refused.contains("give the permissions in octal, 0000 to 0777"), "{mode}: {refused}");
    }
}

#[test]
fn a_host_that_no_browser_can_name_is_refused() {
    let allowed = |names: &str| settings_in(&[("SESSION_BUDDY_BRIDGE_WEB_ALLOWED_HOSTS", names)], &[]).allowed_hosts;
    let names: Vec<String> = allowed("a.example, B.example.").iter().map(|name| name.as_str().to_owned()).collect();
    assert_eq!(names, ["a.example", "b.example"]);
    for (name, complaint) in [
        ("a.example:443", "has a port: write the name alone, it is allowed on every port"),
        ("127.0.0.1", "is an IP address, and addresses are always allowed: leave it out"),
        ("*.example", "is not a host name: write for example metrics.example"),
        ("https://a.example", "is not a host name: write for example metrics.example"),
    ] {
        let expected = format!("--web.allowed-hosts \"{name}\" {complaint}");
        assert_eq!(refusal(&["--web.allowed-hosts", name]), expected);
    }
}

#[test]
fn the_telemetry_path_leaves_the_health_paths_alone() {
    assert_eq!(settings(&["--web.telemetry-path", "/"]).telemetry_path, "/");
    for (path, complaint) in [
        ("metrics", "does not start with a slash: write for example /metrics"),
        ("", "does not start with a slash: write for example /metrics"),
        ("/metrics?a", "holds '?', which no path can hold as it is: use letters, digits and - . _ ~ /"),
        (
            "/-/ready",
            "is taken by the bridge, as /-/healthy, /-/ready and /-/reload are; choose another, for example /metrics",
        ),
    ] {
        let expected = format!("--web.telemetry-path \"{path}\" {complaint}");
        assert_eq!(refusal(&["--web.telemetry-path", path]), expected);
    }
    for taken in ["/-/healthy", "/-/reload"] {
        assert!(refusal(&["--web.telemetry-path", taken]).contains("is taken"), "{taken}");
    }
}

#[test]
fn a_number_outside_its_range_is_refused_with_the_range() {
    for (flag, value, complaint) in [
        ("--limit.skills", "0", "give a whole number from 1 to 1000000"),
        ("--limit.skills", "many", "give a whole number from 1 to 1000000"),
        ("--limit.remembered-skills", "2000001", "give a whole number from 1 to 2000000"),
        ("--limit.label-chars", "15", "give a whole number from 16 to 4096"),
        ("--feed.max-frame-bytes", "1023", "give a whole number from 1024 to 67108864"),
        ("--feed.silence-timeout", "10", "has no unit: write for example 10s or 10ms"),
        ("--feed.silence-timeout", "999ms", "is out of range: give 1s to 1h"),
        (
            "--feed.silence-timeout",
            "soon",
            "is not a duration: write a number and one of the units ms, s, m, h, d, for example 10s, 500ms or 1.5m",
        ),
    ] {
        let refused = refusal(&[flag, value]);
        assert!(refused.contains(&format!("invalid value '{value}' for '{flag} <")), "{refused}");
        assert!(refused.contains(complaint), "{refused}");
    }
    assert_eq!(
        refusal(&["--limit.skills", "50001"]),
        "--limit.remembered-skills 50000 is below --limit.skills 50001: what is shown must be remembered, so give at \
         least 50001"
    );
}

#[test]
fn the_demo_may_move_only_while_nobody_chose_an_address() {
    let demo = made_in::<Demo>;
    let default = demo(&[], &["demo"]);
    assert!(default.any_port);
    assert_eq!(default.bridge.listen, ["127.0.0.1:9090".parse::<SocketAddr>().unwrap()]);
    assert_eq!(default.bridge.feeds, []);
    assert_eq!(default.feed, DemoSettings::default());

    let chosen = demo(&[], &["demo", "--web.listen-address", "localhost:9090", "--demo.seed", "7"]);
    assert!(!chosen.any_port);
    assert_eq!(chosen.feed.seed, 7);
    assert!(!demo(&[("SESSION_BUDDY_BRIDGE_WEB_LISTEN_ADDRESS", "localhost:9090")], &["demo"]).any_port);
    assert!(refusal(&["demo", "--feed.url", "ws://h"]).contains("unexpected argument '--feed.url'"));
}

#[test]
fn a_recording_is_made_and_replayed() {
    let record: Record = made_in(&[], &["record", "feed.ndjson", "--seconds", "5", "--feed.skill", "x"]);
    assert_eq!(record.file.to_str(), Some("feed.ndjson"));
    assert_eq!(record.duration, Duration::from_secs(5));
    assert_eq!(record.feed.identity, "ws://localhost:8765/ skill=x");
    assert!(refusal(&["record", "f", "--seconds", "0"]).contains("give a whole number from 1 to 86400"));
    assert!(refusal(&["record"]).contains("<FILE>"));

    let replay: Replay = made_in(&[], &["replay", "feed.ndjson", "--limit.skills", "3"]);
    assert_eq!(replay.skill, None);
    assert_eq!(replay.ledger_limits.skills_max, 3);
}

#[test]
fn a_health_check_is_asked_where_and_for_how_long() {
    let healthcheck = made_in::<Healthcheck>;
    let default = healthcheck(&[], &["healthcheck"]);
    assert_eq!(default.urls()[0], "http://127.0.0.1:9090/-/healthy");
    assert_eq!(default.timeout, Duration::from_secs(3));

    let environment = [
        ("SESSION_BUDDY_BRIDGE_HEALTHCHECK_URL", "http://bridge:9101/-/ready"),
        ("SESSION_BUDDY_BRIDGE_HEALTHCHECK_TIMEOUT", "500ms"),
    ];
    let named = healthcheck(&environment, &["healthcheck"]);
    assert_eq!(named.urls(), ["http://bridge:9101/-/ready"]);
    assert_eq!(named.timeout, Duration::from_millis(500));
    assert_eq!(healthcheck(&environment, &["healthcheck", "http://other/"]).urls(), ["http://other/"]);

    let refused = refusal(&["healthcheck", "https://me:secret@h/"]);
    assert!(refused.contains("\"https://***@h/\" contains a user name or password"), "{refused}");
    let refused = refusal(&["healthcheck", "--healthcheck.timeout", "0s"]);
    assert!(refused.contains("is out of range: give 100ms to 1m"), "{refused}");
}

#[test]
fn a_flag_before_its_command_is_refused_with_the_place_where_it_belongs() {
    for (args, command) in [
        (&["--feed.url", "ws://h:1", "check"][..], "check"),
        (&["--state.path=x", "--web.zero-first=20s", "state", "show"], "state"),
    ] {
        let refused = refusal(args);
        let tip = format!("flags of a command go after it: 'session-buddy-bridge {command} [OPTIONS]'");
        assert!(refused.contains("cannot be used with") && refused.contains(&tip), "{args:?}: {refused}");
    }
    assert!(!refusal(&["check", "--no-such-flag"]).contains("go after"));
}

#[test]
fn flags_that_contradict_each_other_are_refused_by_name() {
    for (args, one, other) in [
        (&["--state.disabled", "--state.path=s.db"][..], "--state.disabled", "--state.path"),
        (&["run", "--state.path=s.db", "--state.disabled=true"], "--state.disabled", "--state.path"),
        (&["--web.systemd-socket", "--web.listen-address=:1"], "--web.systemd-socket", "--web.listen-address"),
        (&["demo", "--web.systemd-socket", "--web.listen-address=:1"], "--web.systemd-socket", "--web.listen-address"),
        (&["explain", "feed.ndjson", "--feed.url=ws://h:1"], "FILE and", "--feed.url"),
        (&["explain", "feed.ndjson", "--seconds=5"], "FILE and", "--seconds"),
        (&["healthcheck", "http://h:1", "--healthcheck.pid=1"], "URL and", "--healthcheck.pid"),
        (&["healthcheck", "http://h:1", "--web.listen-address=:1"], "URL and", "--web.listen-address"),
        (
            &["healthcheck", "--healthcheck.pid=1", "--web.listen-address=:1"],
            "--healthcheck.pid",
            "--web.listen-address",
        ),
    ] {
        let refused = refusal(args);
        assert!(refused.contains("contradict each other"), "{args:?}: {refused}");
        assert!(refused.contains(one) && refused.contains(other), "{args:?}: {refused}");
    }
    assert!(refusal(&["--web.socket-mode=0660"]).contains("has no effect without a Unix socket"));
}

#[test]
fn a_flag_overrules_the_variable_of_another() {
    let path = [("SESSION_BUDDY_BRIDGE_STATE_PATH", "s.db")];
    assert_eq!(settings_in(&path, &["--state.disabled"]).state, StateLocation::InMemory);
    let path = StateLocation::Path("s.db".into());
    assert_eq!(settings(&["--state.disabled=false", "--state.path=s.db"]).state, path);
    let socket = settings(&["--web.systemd-socket", "--web.listen-address=unix:/run/bridge/http.sock"]);
    assert!(socket.systemd_socket && socket.listen_unix.len() == 1);
}

/// Every flag of push but `--push.url`, with a value.
const PUSH_FLAGS: [(&str, &str); 14] = [
    ("push.name", "lab"),
    ("push.headers-file", "/etc/headers"),
    ("push.bearer-token-file", "/etc/token"),
    ("push.basic-auth-file", "/etc/login"),
    ("push.ca-file", "/etc/ca.pem"),
    ("push.cert-file", "/etc/cert.pem"),
    ("push.key-file", "/etc/key.pem"),
    ("push.label", "team=a"),
    ("push.series", "all"),
    ("push.max-age", "7d"),
    ("push.timeout", "30s"),
    ("push.insecure", "true"),
    ("push.interval", "60s"),
    ("push.max-queue-bytes", "256MiB"),
];

#[test]
fn a_push_flag_that_no_receiver_heeds_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let list = file("list.yml", "push:\n  - url: http://r/write\n");
    let feeds = file("feeds.yml", "feeds:\n  - url: ws://h:1\n");
    for (flag, value) in PUSH_FLAGS {
        let line = format!("--{flag}={value}");
        let variable = format!("SESSION_BUDDY_BRIDGE_{}", flag.to_uppercase().replace(['.', '-'], "_"));
        // What holds for the queue holds for the receivers of a file too, now or after it was reloaded.
        let is_of_queue = ["push.interval", "push.max-queue-bytes"].contains(&flag);
        let without = match is_of_queue {
            true => format!("--{flag} was given without --push.url and without --config.file: nothing is pushed"),
            false => format!(
                "--{flag} was given without --push.url, which names the receiver: for those of a list `push` write it into \
                 --config.file"
            ),
        };
        assert_eq!(refusal(&[&line]), without);
        assert_eq!(refusal(&["demo", &line]), without);
        assert_eq!(refusal_in(&[(&variable, value)], &[]), without);
        for config in [&list, &feeds] {
            let args = ["--config.file", config, &line];
            match is_of_queue {
                true => assert_eq!(settings(&args).push.receivers.len(), usize::from(config == &list)),
                false => {
                    assert_eq!(refusal(&args), without);
                    assert_eq!(refusal_in(&[(&variable, value)], &args[..2]), without);
                }
            }
        }
    }
    let both = refusal(&["--config.file", &list, "--push.url", "http://other/write"]);
    assert!(both.starts_with("--push.url was given beside --config.file "), "{both}");
    assert_eq!(settings(&["--push.insecure=false"]).push, PushSettings::default());
}

#[test]
fn push_flags_hold_for_every_receiver_of_the_line_and_have_documented_defaults() {
    let urls = ["--push.url", "http://one/write", "--push.url", "http://other/write"];
    let push = settings(&urls).push;
    assert_eq!((push.interval, push.queue_bytes_max), (Duration::from_secs(60), 256 << 20));
    let names: Vec<_> = push.receivers.iter().map(|receiver| receiver.name.as_str()).collect();
    assert_eq!(names, ["one:80/write", "other:80/write"]);
    for receiver in &push.receivers {
        assert_eq!((receiver.age_max, receiver.timeout), (Duration::from_secs(7 * 86_400), Duration::from_secs(30)));
        assert_eq!(receiver.series, PushedSeries::All);
    }
    let given = [
        "--push.interval=5s",
        "--push.max-queue-bytes=1MiB",
        "--push.max-age=1m",
        "--push.timeout=1s",
        "--push.series=five",
        "--push.label=team=a",
    ];
    let push = settings(&[&urls[..], &given].concat()).push;
    assert_eq!((push.interval, push.queue_bytes_max), (Duration::from_secs(5), 1 << 20));
    for receiver in &push.receivers {
        assert_eq!((receiver.age_max, receiver.timeout), (Duration::from_secs(60), Duration::from_secs(1)));
        assert_eq!(receiver.series, PushedSeries::Five);
        assert!(receiver.labels.iter().any(|label| label == ("team", "a")), "{:?}", receiver.labels);
    }
    assert!(refusal(&[&urls[..], &["--push.name=lab"]].concat()).starts_with("--push.name names one receiver"));
    for out_of_range in [
        "--push.interval=4s",
        "--push.interval=61m",
        "--push.max-queue-bytes=1023KiB",
        "--push.max-age=59s",
        "--push.max-age=366d",
        "--push.timeout=999ms",
        "--push.timeout=11m",
    ] {
        let (flag, value) = out_of_range.split_once('=').unwrap();
        assert!(refusal(&[urls[0], urls[1], flag, value]).contains(value), "{out_of_range}");
    }
    let many: Vec<String> =
        (0..5).flat_map(|port| ["--push.url".to_owned(), format!("http://h:{}/", port + 1)]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(settings(&many[..8]).push.receivers.len(), 4);
    assert!(refusal(&many).starts_with("there are 5 receivers, and a bridge pushes to at most 4"));
}
