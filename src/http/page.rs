//! The page that a person reads: what `/status` says, as HTML without scripts and without anything from elsewhere.

use crate::pipeline::control::{PipelineState, PipelineStatus, RouteState, RouteStatus, StoreStatus};
use std::fmt::Write as _;

/// How often a browser asks again, seconds.
const REFRESH_SECONDS: u32 = 3;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--good:#1a7f37;--bad:#c62828;--wait:#9a6700}\
@media(prefers-color-scheme:dark){:root{--good:#4ac26b;--bad:#ff7b72;--wait:#d4a72c}}\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}\
h1{font-size:1.3rem}h2{font-size:1.1rem;margin-top:2rem}h3{font-size:.95rem;margin-bottom:.2rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line)}\
th{font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
.note{background:var(--soft);padding:.4rem .6rem;border-radius:.3rem}.good{color:var(--good)}.bad{color:var(--bad)}\
.wait{color:var(--wait)}dl{display:flex;flex-wrap:wrap;gap:.2rem 2rem;margin:.5rem 0}dt{opacity:.7}dd{margin:0}\
.scroll{overflow-x:auto}footer{margin-top:2rem;opacity:.7}";

/// The whole page.
pub(super) fn render(worker: &str, statuses: &[PipelineStatus]) -> String {
    let mut out = String::with_capacity(4096);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Keepstep</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"refresh\" content=\"{REFRESH_SECONDS}\"><style>{STYLE}</style></head><body>\
         <h1>Keepstep {} on {}</h1>",
        env!("CARGO_PKG_VERSION"),
        escape(worker)
    );
    if statuses.is_empty() {
        out.push_str("<p class=\"note\">The pipelines have not started yet.</p>");
    }
    for status in statuses {
        pipeline(&mut out, status);
    }
    out.push_str(
        "<footer><a href=\"status\">status</a> · <a href=\"quarantine\">quarantine</a> · \
         <a href=\"metrics\">metrics</a> · <a href=\"ready\">ready</a></footer></body></html>\n",
    );
    out
}

fn pipeline(out: &mut String, status: &PipelineStatus) {
    let (class, state) = pipeline_state(status.state);
    let _ = write!(out, "<h2>{} <span class=\"{class}\">{state}</span></h2>", escape(&status.pipeline));
    note(out, &status.note);
    out.push_str("<dl>");
    let owner = if status.owner.is_empty() { "unknown" } else { &status.owner };
    fact(out, "owner", owner);
    if status.epoch > 0 {
        fact(out, "epoch", &status.epoch.to_string());
    }
    fact(out, "standbys", &status.standbys.to_string());
    fact(out, "position", &status.position.to_string());
    if let Some(history) = status.history.filter(|history| history.last > 0) {
        fact(out, "full history from", &format!("{} ({})", history.full_from, time(history.full_from_ms)));
        // Of a stream in Kafka it is not known.
        if history.bytes > 0 {
            fact(out, "on disk", &bytes(history.bytes));
        }
    }
    fact(out, "changes", &status.changes.to_string());
    fact(out, "changes a second", &format!("{:.1}", status.rate));
    fact(out, "conflicts", &status.conflicts.to_string());
    fact(out, "gaps", &status.gaps.to_string());
    fact(out, "losses", &status.losses.to_string());
    fact(
        out,
        "last comparison",
        &if status.compared_ms == 0 { "none yet".to_owned() } else { time(status.compared_ms) },
    );
    if status.state == PipelineState::Snapshotting {
        fact(out, "first comparison", &format!("{} pairs so far", status.snapshot_done));
    }
    out.push_str("</dl>");
    routes(out, &status.routes);
    stores(out, &status.stores);
}

fn routes(out: &mut String, routes: &[RouteStatus]) {
    out.push_str(
        "<h3>Routes</h3><div class=\"scroll\"><table><tr><th>route<th>flow<th>state<th class=\"n\">pairs\
         <th class=\"n\">pending<th class=\"n\">lag<th class=\"n\">quarantined<th class=\"n\">awaiting approval</tr>",
    );
    for route in routes {
        let (class, state) = route_state(route.state);
        let quarantined = if route.quarantined > 0 { "n bad" } else { "n" };
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td class=\"{class}\">{state}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{:.1} s\
             <td class=\"{quarantined}\">{}<td class=\"n\">{}</tr>",
            escape(&route.route),
            escape(&route.flow),
            route.pairs,
            route.pending,
            route.lag_seconds,
            route.quarantined,
            route.awaiting_approval
        );
    }
    out.push_str("</table></div>");
    for route in routes {
        for one in &route.unreadable_names {
            note(out, &format!("{}: no permission for {}: {}", route.route, one.name, one.reason));
        }
        if route.unreadable > u64::try_from(route.unreadable_names.len()).unwrap_or(u64::MAX) {
            note(out, &format!("{}: no permission for {} in all", route.route, route.unreadable));
        }
    }
}

fn stores(out: &mut String, stores: &[StoreStatus]) {
    out.push_str("<h3>Stores</h3><div class=\"scroll\"><table><tr><th>store<th>server<th>connection<th>note</tr>");
    for store in stores {
        let server = if store.server.is_empty() { &store.kind } else { &store.server };
        let (class, stands) = if store.connected { ("good", "connected") } else { ("bad", "away") };
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td class=\"{class}\">{stands}<td>{}</tr>",
            escape(&store.name),
            escape(server),
            escape(&store.note)
        );
    }
    out.push_str("</table></div>");
}

fn note(out: &mut String, text: &str) {
    if !text.is_empty() {
        let _ = write!(out, "<p class=\"note\">{}</p>", escape(text));
    }
}

fn fact(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(value));
}

fn pipeline_state(state: PipelineState) -> (&'static str, &'static str) {
    match state {
        PipelineState::Connecting => ("wait", "connecting"),
        PipelineState::Standby => ("good", "standing by"),
        PipelineState::Snapshotting => ("wait", "first comparison"),
        PipelineState::Live => ("good", "live"),
        PipelineState::Paused => ("wait", "paused"),
        PipelineState::AwaitingApproval => ("bad", "awaiting approval"),
        PipelineState::Blocked => ("bad", "blocked"),
        PipelineState::Waiting => ("bad", "waiting"),
        PipelineState::Stopping => ("wait", "stopping"),
    }
}

fn route_state(state: RouteState) -> (&'static str, &'static str) {
    match state {
        RouteState::Starting => ("wait", "starting"),
        RouteState::Live => ("good", "live"),
        RouteState::Paused => ("wait", "paused"),
        RouteState::AwaitingApproval => ("bad", "awaiting approval"),
    }
}

fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| format!("{time:.0}"))
}

fn bytes(count: u64) -> String {
    let mut size = count as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{count} B") } else { format!("{size:.1} {unit}") }
}

/// Text that cannot leave the place where it is put, element or quoted attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fake;

    #[test]
    fn the_page_shows_routes_stores_and_what_is_wrong() {
        let mut status = fake::status("p");
        status.note = "Redis is away".to_owned();
        let page = render("host:1", &[status]);
        for expected in ["settings", "zk &lt;-&gt; cache", "Redis 7.2.4", "Redis is away", "host:1"] {
            assert!(page.contains(expected), "{expected} is not on {page}");
        }
    }

    #[test]
    fn a_name_cannot_bring_markup() {
        let mut status = fake::status("p");
        if let Some(store) = status.stores.first_mut() {
            store.note = "<script>alert(\"x\")</script>".to_owned();
        }
        assert!(!render("host:1", &[status]).contains("<script"));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = render("host:1", &[fake::status("p")]);
        assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("src="), "{page}");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes(4096), "4.0 KiB");
        assert_eq!(bytes(3 << 40), "3.0 TiB");
        assert_eq!(bytes(5000 << 40), "5000.0 TiB");
    }
}
