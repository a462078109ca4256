//! The human-readable page: the content of `/status` as HTML, without scripts and without anything
//! from elsewhere. Texts are escaped by their type: only [`PreEscaped`] is not, and only constants
//! are that.

use crate::pipeline::control::{PipelineState, PipelineStatus, RouteState, RouteStatus, StoreStatus};
use maud::{Markup, PreEscaped, html};

/// How often a browser reloads the page, seconds.
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

/// The page.
pub(super) fn render(worker: &str, statuses: &[PipelineStatus]) -> String {
    let page = html! {
        (PreEscaped("<!doctype html>\n"))
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "Keepstep" }
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content=(REFRESH_SECONDS);
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Keepstep " (env!("CARGO_PKG_VERSION")) " on " (worker) }
                @if statuses.is_empty() {
                    p.note { "The pipelines have not started yet." }
                }
                @for status in statuses {
                    (pipeline(status))
                }
                footer {
                    a href="status" { "status" } " · " a href="quarantine" { "quarantine" } " · "
                    a href="metrics" { "metrics" } " · " a href="ready" { "ready" }
                }
            }
        }
    };
    page.into_string()
}

fn pipeline(status: &PipelineStatus) -> Markup {
    let (class, state) = pipeline_state(status.state);
    html! {
        h2 { (status.pipeline) " " span class=(class) { (state) } }
        (note(&status.note))
        dl {
            @for (name, value) in facts(status) {
                div { dt { (name) } dd { (value) } }
            }
        }
        (routes(&status.routes))
        (stores(&status.stores))
    }
}

fn facts(status: &PipelineStatus) -> Vec<(&'static str, String)> {
    let owner = if status.owner.is_empty() { "unknown" } else { &status.owner };
    let mut facts = vec![("owner", owner.to_owned())];
    if status.epoch > 0 {
        facts.push(("epoch", status.epoch.to_string()));
    }
    facts.push(("standbys", status.standbys.to_string()));
    facts.push(("position", status.position.to_string()));
    if let Some(history) = status.history.filter(|history| history.last > 0) {
        facts.push(("full history from", format!("{} ({})", history.full_from, time(history.full_from_ms))));
        // The size of a stream in Kafka is not known.
        if history.bytes > 0 {
            facts.push(("on disk", bytes(history.bytes)));
        }
    }
    facts.push(("changes since the start", status.changes.to_string()));
    facts.push(("changes a second", format!("{:.1}", status.rate)));
    facts.push(("conflicts since the start", status.conflicts.to_string()));
    facts.push(("gaps since the start", status.gaps.to_string()));
    facts.push(("losses since the start", status.losses.to_string()));
    let compared = if status.compared_ms == 0 { "none yet".to_owned() } else { time(status.compared_ms) };
    facts.push(("last comparison", compared));
    if status.state == PipelineState::Snapshotting {
        facts.push(("first comparison", format!("{} pairs so far", status.snapshot_done)));
    }
    facts
}

fn routes(routes: &[RouteStatus]) -> Markup {
    html! {
        h3 { "Routes" }
        div.scroll {
            table {
                tr {
                    th { "route" } th { "flow" } th { "state" } th.n { "pairs" } th.n { "pending" } th.n { "lag" }
                    th.n { "quarantined" } th.n { "awaiting approval" }
                }
                @for route in routes {
                    @let (class, state) = route_state(route.state);
                    tr {
                        td { (route.route) } td { (route.flow) } td class=(class) { (state) } td.n { (route.pairs) }
                        td.n { (route.pending) } td.n { (format!("{:.1} s", route.lag_seconds)) }
                        td.n.bad[route.quarantined > 0] { (route.quarantined) } td.n { (route.awaiting_approval) }
                    }
                }
            }
        }
        @for route in routes {
            @for one in &route.unreadable_names {
                (note(&format!("{}: no permission for {}: {}", route.route, one.name, one.reason)))
            }
            @if route.unreadable > u64::try_from(route.unreadable_names.len()).unwrap_or(u64::MAX) {
                (note(&format!("{}: no permission for {} in all", route.route, route.unreadable)))
            }
        }
    }
}

fn stores(stores: &[StoreStatus]) -> Markup {
    html! {
        h3 { "Stores" }
        div.scroll {
            table {
                tr { th { "store" } th { "server" } th { "connection" } th { "note" } }
                @for store in stores {
                    @let server = if store.server.is_empty() { &store.kind } else { &store.server };
                    @let (class, connection) = if store.connected { ("good", "connected") } else { ("bad", "away") };
                    tr { td { (store.name) } td { (server) } td class=(class) { (connection) } td { (store.note) } }
                }
            }
        }
    }
}

fn note(text: &str) -> Markup {
    html! {
        @if !text.is_empty() {
            p.note { (text) }
        }
    }
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
