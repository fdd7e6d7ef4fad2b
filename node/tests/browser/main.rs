//! The demo page in a real browser: against a scripted server for the manners of its protocol
//! client, and against real nodes for the chat as a whole.

#[path = "../common/mod.rs"]
mod common;

mod chat;
mod client;
mod fake;
mod manners;
mod webdriver;

/// Browsers are heavy: one at a time.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The last message of the page's own user has this mark, and as many messages are shown.
const MARK: &str = "[...document.querySelectorAll('.message.mine')].at(-1)?.dataset.state === arguments[0]";
/// The texts of all messages of the open conversation, in order.
const TEXTS: &str = "[...document.querySelectorAll('.bubble')].map((bubble) => bubble.textContent)";
/// The page has a connection.
const ONLINE: &str = "document.getElementById('chat').dataset.state === 'online'";
