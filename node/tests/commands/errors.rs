//! Errors: one line on stderr that says what is wrong, nothing on stdout, and an exit code.

use std::net::TcpListener;

use crate::common::{TestCluster, free_port};
use crate::{command, fails};

/// The command line or the configuration is at fault.
#[tokio::test]
async fn bad_usage_is_exit_code_2_and_one_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let cases: &[(&[&str], &str)] = &[
        (&["--nonsense"], "unexpected argument '--nonsense'"),
        (&["dance"], "unrecognized subcommand 'dance'"),
        (&["member"], "requires a subcommand but one was not provided [subcommands: remove, promote"),
        (&["leader"], "requires a subcommand but one was not provided [subcommands: transfer"),
        (&["member", "remove"], "<NODE>"),
        (&["member", "remove", "nobody"], "a node id is up to 14 hexadecimal digits"),
        (&["token"], "--user <USER>"),
        (&["token", "--user", ""], "--user: "),
        (&["token", "--user", "a\nb"], "--user: "),
        (&["token", "--user", "a", "--device", ""], "--device: "),
        (&["token", "--user", "a", "--ttl", "soon"], "\"soon\" is not a duration such as"),
        (&["token", "--user", "a", "--config", "nowhere.toml"], "nowhere.toml"),
        (&["chat", "--to", "b"], "--user <USER>"),
        (&["chat", "--user", "a", "--to", ""], "--to: "),
        (&["chat", "--user", "a", "--url", "ftp://x"], "--url: \"ftp://x\" is not a node's URL such as"),
        (&["status", "--url", "https://x", "--ca", "nowhere.pem"], "cannot read the CA file nowhere.pem"),
        (&["status", "--ca", "nowhere.pem"], "--ca is for https:// and wss:// only"),
        (&["status", "--url", ""], "--url: \"\" is not a node's URL such as"),
        (&["up", "--nodes", "0"], "0 is not in 1..=15"),
        (&["up", "--http-port", "65535"], "leaves no room for 3 nodes"),
        (&["bench", "--pairs", "0"], "--pairs"),
        (&["serve", "--config", "nowhere.toml"], "nowhere.toml"),
        (&["serve", "--voters", "4"], "set it to 3 or 5"),
        (&["serve", "--http", "nowhere"], "`listen.http` = \"nowhere\" is not host:port"),
        (&["serve", "--join", "nowhere"], "`cluster.join` = \"nowhere\" is not host:port"),
        (&["serve", "--log-format", "xml"], "expected one of auto, json, text"),
        (&["serve", "--bootstrap", "--log", "inf"], "`log.level`: `inf` is no log filter"),
        // What must not be seen from outside.
        (&["serve", "--bootstrap", "--http", "0.0.0.0:0"], "IMGW_JWT_SECRET"),
        (&["serve", "--bootstrap", "--peer", "0.0.0.0:0"], "IMGW_CLUSTER_SECRET"),
    ];
    for (args, words) in cases {
        fails(&mut command(*args), dir.path(), 2, words).await;
    }
    let exposed = ["serve", "--dev", "--bootstrap", "--http", "0.0.0.0:0"];
    let secret = ("IMGW_JWT_SECRET", "a secret that is long enough");
    fails(command(exposed).envs([secret]), dir.path(), 2, "leave out --dev").await;
    fails(command(["serve"]).env("IMGW_LIMITS_PING_MS", "soon"), dir.path(), 2, "IMGW_LIMITS_PING_MS").await;
    fails(command(["token", "--user", "a"]).env("IMGW_JWKS", "keys.json"), dir.path(), 2, "IMGW_JWT_SECRET").await;
    std::fs::write(dir.path().join("bad.toml"), "[listen]\nhtpp = '127.0.0.1:0'\n").expect("written");
    fails(&mut command(["serve", "--config", "bad.toml"]), dir.path(), 2, "there is no key `htpp` in [listen]").await;
}

/// The command is a good one, but cannot be carried out.
#[tokio::test]
async fn what_cannot_be_done_is_exit_code_1_and_one_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let nobody = format!("http://127.0.0.1:{}", free_port());
    fails(&mut command(["status", "--url", &nobody]), dir.path(), 1, &nobody).await;
    fails(&mut command(["bench", "--url", &nobody]), dir.path(), 1, "give other nodes by --url").await;
    let transfer = ["leader", "transfer", "--url", &nobody];
    fails(&mut command(transfer), dir.path(), 1, "Connection refused").await;
    fails(&mut command(["serve", "--http", "127.0.0.1:0", "--peer", "127.0.0.1:0"]), dir.path(), 1, "--bootstrap")
        .await;

    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("it is bound").to_string();
    let quiet = ["serve", "--bootstrap", "--log", "error", "--data", "node"];
    let listen = ["--http", &taken, "--peer", "127.0.0.1:0"];
    fails(&mut command(quiet.iter().chain(&listen)), dir.path(), 1, "choose another --http").await;
    let listen = ["--http", "127.0.0.1:0", "--peer", &taken];
    fails(&mut command(quiet.iter().chain(&listen)), dir.path(), 1, "choose another --peer").await;
    // A node that is told nothing at all, where the usual ports are others'.
    let (http, peer) = (format!("127.0.0.1:{}", free_port()), taken);
    let mut alone = command::<&str>([]);
    fails(alone.env("IMGW_HTTP", http).env("IMGW_PEER", &peer), dir.path(), 1, "IMGW_PEER").await;

    std::fs::write(dir.path().join("file"), "no folder").expect("written");
    let listen = ["--http", "127.0.0.1:0", "--peer", "127.0.0.1:0"];
    let on_file = ["serve", "--bootstrap", "--data", "file"];
    fails(&mut command(on_file.iter().chain(&listen)), dir.path(), 1, "choose another --data").await;
    fails(&mut command(["up", "--data", "file"]), dir.path(), 1, "choose another --data").await;
}

#[tokio::test]
async fn a_data_folder_is_one_nodes() {
    let cluster = TestCluster::start(1).await;
    let data = cluster.data(0).to_str().expect("UTF-8");
    let args = ["serve", "--bootstrap", "--http", "127.0.0.1:0", "--peer", "127.0.0.1:0", "--data", data];
    let words = format!("is in use by another node (process {})", cluster.pid(0));
    fails(&mut command(args), cluster.data(0).parent().expect("a folder"), 1, &words).await;
}
