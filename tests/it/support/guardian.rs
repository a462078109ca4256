//! Ends the servers of a test process that died without ending them itself (Ctrl-C, SIGKILL, a crash).
//!
//! A small shell holds the other end of a pipe. It is told the id of each process when it starts and when it has
//! ended. When the pipe closes, which the kernel does for us however we die, it kills what is left and ends.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex};

const SCRIPT: &str = r#"
trap '' INT TERM HUP
living=' '
while read -r verb id; do
  case $verb in
    watch) living="$living$id " ;;
    forget)
      rest=' '
      for one in $living; do [ "$one" = "$id" ] || rest="$rest$one "; done
      living=$rest ;;
  esac
done
for one in $living; do kill -9 "$one"; done
"#;

static GUARDIAN: LazyLock<Mutex<Child>> = LazyLock::new(|| {
    let child = Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the guardian of the servers starts");
    Mutex::new(child)
});

fn tell(line: String) {
    let mut guardian = GUARDIAN.lock().unwrap();
    guardian.stdin.as_mut().unwrap().write_all(line.as_bytes()).expect("the guardian listens");
}

/// The process shall not outlive us.
pub fn watch(id: u32) {
    tell(format!("watch {id}\n"));
}

/// The process has ended and was waited for: its id may be somebody else's from now on.
pub fn forget(id: u32) {
    tell(format!("forget {id}\n"));
}
