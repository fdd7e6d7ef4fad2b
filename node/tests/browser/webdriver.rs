//! Drives a headless Chromium through chromedriver: the few WebDriver calls that these tests need.

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cluster::env::clock;
use serde_json::{Value, json};

use crate::common::{PATIENCE, eventually, http};

const FLAGS: [&str; 9] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

/// How often Chromium is started before it is given up: on a starved machine it may take longer than
/// chromedriver waits.
const STARTS: usize = 3;

/// A browser with a profile of its own; ends with this value.
pub struct Browser {
    driver: Child,
    addr: SocketAddr,
    session: String,
    _dir: tempfile::TempDir,
}

/// One tab of it.
pub struct Tab<'a> {
    browser: &'a Browser,
    handle: String,
}

/// A browser, or none (said loudly) where Chromium or its driver is not installed.
pub async fn browser() -> Option<Browser> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    let chrome = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(find);
    let (Some(chrome), Some(driver)) = (chrome, find("chromedriver")) else {
        // Written past the test runner's capture, so that nobody takes this for a success.
        let word = "SKIPPED browser test: it needs chromium and chromedriver (Debian: chromium chromium-driver)\n";
        std::io::stderr().write_all(word.as_bytes()).expect("stderr takes a line");
        return None;
    };
    Some(Browser::start(&driver, &chrome).await)
}

impl Browser {
    async fn start(driver: &Path, chrome: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let log = dir.path().join("driver.log");
        let driver = Command::new(driver)
            .arg("--port=0")
            // What the browser leaves behind goes with the folder.
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .stdout(File::create(&log).expect("a log file"))
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("chromedriver starts");
        let port = eventually("chromedriver tells its port", async || {
            let mut text = String::new();
            File::open(&log).ok()?.read_to_string(&mut text).ok()?;
            let (_, rest) = text.split_once("started successfully on port ")?;
            rest.split_once('.')?.0.parse::<u16>().ok()
        })
        .await;
        let mut browser =
            Self { driver, addr: SocketAddr::from(([127, 0, 0, 1], port)), session: String::new(), _dir: dir };
        let profile = format!("--user-data-dir={}", browser._dir.path().join("profile").display());
        let flags: Vec<&str> = FLAGS.into_iter().chain([profile.as_str()]).collect();
        let options = json!({ "binary": chrome, "args": flags });
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let mut made = Err(String::new());
        for _ in 0..STARTS {
            made = browser.call("POST", "/session", Some(&wanted)).await;
            if made.is_ok() {
                break;
            }
        }
        let made = made.expect("chromium starts");
        browser.session = made["sessionId"].as_str().expect("a session has an id").to_owned();
        browser
    }

    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let (addr, body) = (self.addr.to_string(), body.map(Value::to_string).unwrap_or_default());
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n");
        let head = format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        let answer = http::request(&addr, &(head + &body)).await.map_err(|error| error.to_string())?;
        let mut json: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
        let value = json["value"].take();
        if answer.status == 200 { Ok(value) } else { Err(format!("{}: {}", value["error"], value["message"])) }
    }

    async fn command(&self, name: &str, body: &Value) -> Result<Value, String> {
        self.call("POST", &format!("/session/{}/{name}", self.session), Some(body)).await
    }

    /// All tabs.
    async fn handles(&self) -> Vec<String> {
        let path = format!("/session/{}/window/handles", self.session);
        let handles = self.call("GET", &path, None).await.expect("the browser knows its tabs");
        serde_json::from_value(handles).expect("a list of names")
    }

    /// A new tab on this page.
    pub async fn tab(&self, url: &str) -> Tab<'_> {
        let made = self.command("window/new", &json!({"type": "tab"})).await.expect("a new tab opens");
        let tab = Tab { browser: self, handle: made["handle"].as_str().expect("a tab has a handle").to_owned() };
        tab.command("url", &json!({ "url": url })).await.expect("the page loads");
        tab
    }
}

impl Drop for Browser {
    /// Ending the session ends Chromium and its children, if they still listen; what then is left of
    /// the driver's process group is killed.
    fn drop(&mut self) {
        let farewell = || -> std::io::Result<()> {
            let mut stream = std::net::TcpStream::connect(self.addr)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(stream, "DELETE /session/{} HTTP/1.1\r\nHost: {}\r\n\r\n", self.session, self.addr)?;
            stream.read(&mut [0; 1]).map(drop)
        };
        _ = farewell();
        let group = i32::try_from(self.driver.id()).expect("a pid");
        // SAFETY: the group is named after our own child, which has not been waited for.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        _ = self.driver.wait();
    }
}

impl Tab<'_> {
    async fn command(&self, name: &str, body: &Value) -> Result<Value, String> {
        self.browser.command("window", &json!({"handle": self.handle})).await?;
        self.browser.command(name, body).await
    }

    /// The value of a JavaScript expression; `args` are its `arguments`.
    pub async fn eval(&self, expression: &str, args: &[&str]) -> Value {
        let script = json!({"script": format!("return ({expression})"), "args": args});
        match self.command("execute/sync", &script).await {
            Ok(value) => value,
            Err(error) => panic!("{expression}: {error}"),
        }
    }

    /// Waits until an expression is true, and gives its value.
    pub async fn until(&self, expression: &str, args: &[&str]) -> Value {
        let start = clock::now();
        loop {
            let value = self.eval(expression, args).await;
            if !matches!(value, Value::Null | Value::Bool(false)) && value != json!(0) && value != json!("") {
                return value;
            }
            if start.elapsed() > PATIENCE {
                let shown = self.eval("document.body.innerText", &[]).await;
                let console = self.browser.command("se/log", &json!({"type": "browser"})).await;
                panic!("waited in vain for {expression} {args:?} on the page:\n{shown}\nconsole: {console:?}");
            }
            clock::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn element(&self, css: &str) -> String {
        let found = self.command("element", &json!({"using": "css selector", "value": css})).await;
        let found = found.unwrap_or_else(|error| panic!("{css}: {error}"));
        let id = found.as_object().and_then(|element| element.values().next()).and_then(Value::as_str);
        id.expect("an element has an id").to_owned()
    }

    /// Types into the field that this selector finds; `\n` is the Enter key.
    pub async fn type_into(&self, css: &str, text: &str) {
        let element = self.element(css).await;
        let typed = self.command(&format!("element/{element}/value"), &json!({ "text": text })).await;
        typed.unwrap_or_else(|error| panic!("{css}: {error}"));
    }

    /// Clicks on what this selector finds.
    pub async fn click(&self, css: &str) {
        // A page may put another element in the place of one that was just found.
        eventually(&format!("{css} is clicked"), async || {
            let element = self.element(css).await;
            match self.command(&format!("element/{element}/click"), &json!({})).await {
                Ok(_) => Some(()),
                Err(error) if error.to_string().contains("stale element") => None,
                Err(error) => panic!("{css}: {error}"),
            }
        })
        .await;
    }

    /// What the browser's own "duplicate tab" makes: a tab that begins with a copy of this one's storage.
    pub async fn duplicate(&self) -> Self {
        let before = self.browser.handles().await;
        self.eval("void window.open(location.href)", &[]).await;
        let handle = eventually("the new tab is there", async || {
            self.browser.handles().await.into_iter().find(|handle| !before.contains(handle))
        })
        .await;
        Self { browser: self.browser, handle }
    }

    /// Loads the page again.
    pub async fn reload(&self) {
        self.command("refresh", &json!({})).await.expect("the page reloads");
    }

    /// The page's and the browser's complaints since the last call, as text.
    pub async fn console(&self) -> Vec<String> {
        let lines = self.command("se/log", &json!({"type": "browser"})).await.unwrap_or_default();
        let lines = lines.as_array().cloned().unwrap_or_default();
        lines.iter().filter_map(|line| line["message"].as_str()).map(str::to_owned).collect()
    }
}
