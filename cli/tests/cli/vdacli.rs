//! Runs the binary and shows what it did, with everything that differs between runs replaced.

use std::process::{ExitStatus, Stdio};

use tokio::process::Command;

pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    line: String,
}

impl Run {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().expect("ended by itself")
    }

    /// For snapshots.
    pub(crate) fn show(&self) -> String {
        format!(
            "$ vdacli {}\n[exit code {}]\n--- stdout\n{}--- stderr\n{}",
            self.line,
            self.code(),
            self.stdout,
            self.stderr
        )
    }
}

pub(crate) fn command(portal: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vdacli"));
    command.env_clear().env("VDA_PORTAL", portal).args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub(crate) async fn vdacli(portal: &str, line: &str) -> Run {
    let args: Vec<&str> = line.split_whitespace().collect();
    let output = command(portal, &args).output().await.expect("vdacli runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Run {
        status: output.status,
        stdout: text(output.stdout),
        stderr: text(output.stderr),
        line: line.to_owned(),
    }
}

/// Binds the insta filters for ids, ports and times.
#[macro_export]
macro_rules! assert_shown {
    ($name:expr, $text:expr) => {
        insta::with_settings!({
            filters => vec![
                (r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
                (r"after \d+\.\d\d s", "after <t> s"),
                (r"portal 127\.0\.0\.1:[0-9]+", "portal <portal>"),
            ],
            omit_expression => true,
            prepend_module_to_snapshot => false,
        }, { insta::assert_snapshot!($name, $text); });
    };
}
