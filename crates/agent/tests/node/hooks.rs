//! When hooks run: in their window, before what is served would end, at once after a revocation, and not because the agent was
//! started; what succeeded not again for what failed.

use std::{fs, net::TcpListener, time::Duration};

use mintage_agent::{AgentEvent, Delivery, Effect, Hook, HookAction, Window, limits::HOOKS_AT_ONCE_MAX};
use mintage_identity::Serial;
use mintage_proto::v1::Entry;

use crate::support::{
    FakeCa,
    agent::{Node, PATIENCE, Running, name, until},
    entry,
    lists::chunks,
    wall,
};

const HOUR: i64 = 3600;
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// A CA whose certificates live for a day.
async fn slow_ca() -> FakeCa {
    let web = Entry {
        ttl_seconds: i64::try_from(LIFE.as_secs()).unwrap(),
        ..entry("web", "/web")
    };
    let ca = FakeCa::start(vec![web]).await;
    (ca.script().svid_ttl, ca.script().agent_ttl) = (LIFE, 7 * LIFE);
    ca
}

/// A hook that runs this line of shell.
fn shell(line: &str) -> Hook {
    Hook::new(HookAction::Command {
        argv: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        user: None,
    })
}

/// A hook that writes the serial of each of its runs into a file.
fn noting(node: &Node, file: &str) -> Hook {
    shell(&format!(
        "echo $MINTAGE_SERIAL >> {}",
        node.temp.path().join(file).display()
    ))
}

/// The serials that were noted.
fn noted(node: &Node, file: &str) -> Vec<String> {
    let text = fs::read_to_string(node.temp.path().join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The hour that begins so many hours from now.
fn window_in(hours: i64) -> Window {
    let minute = |at: i64| format!("{:02}:{:02}", at / 60 % 24, at % 60);
    let from = wall().seconds() / 60 + hours * 60;
    Window::parse(&format!("{}-{}", minute(from), minute(from + 60))).unwrap()
}

fn start(node: &Node, ca: &FakeCa, delivery: &Delivery, first: bool) -> Running {
    let config = node.config(&[]).with_deliveries(vec![delivery.clone()]).unwrap();
    let config = config.with_metrics("127.0.0.1:0".parse().unwrap()).unwrap();
    node.start(config, first.then(|| ca.token()))
}

/// Waits until the CA can ask it for something, whatever was told of it before.
async fn online(agent: &Running) {
    let asked = async {
        while !agent
            .handle
            .status()
            .await
            .is_some_and(|status| status.connected && status.entries_known)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("it connects");
}

async fn acted(agent: &mut Running) -> Serial {
    let web = name("web");
    agent
        .event("success of hooks", |event| match event {
            AgentEvent::Acted { entry, serial, .. } if entry == web => Some(serial),
            _ => None,
        })
        .await
}

/// Gives hooks that should not run the time to do it.
async fn nothing_runs(node: &Node, runs: usize, when: &str) {
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(noted(node, "runs").len(), runs, "{when}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_wait_for_their_window_unless_what_is_served_ends_or_was_revoked() {
    let (ca, node) = (slow_ca().await, Node::new());
    let hooks = vec![noting(&node, "runs")];
    let delivery = node.delivery("web").with_hooks(hooks).unwrap();
    let delivery = delivery.with_window(Some(window_in(6)));
    let mut agent = start(&node, &ca, &delivery, true);
    let first = acted(&mut agent).await;
    nothing_runs(&node, 1, "servers that were never told do not wait").await;

    agent.stop().await;
    let mut agent = start(&node, &ca, &delivery, false);
    agent.delivered("web").await;
    nothing_runs(&node, 1, "a start is no change").await;
    online(&agent).await;
    ca.renew(&["web"]);
    let (second, end) = agent.delivered("web").await;
    nothing_runs(&node, 1, "outside of the window").await;
    agent.stop().await;
    let mut agent = start(&node, &ca, &delivery, false);
    agent.delivered("web").await;
    nothing_runs(&node, 1, "a start is no reason to run outside of the window").await;

    // Revoked is what the servers still serve, though it is replaced in the folder.
    online(&agent).await;
    ca.revoke(first, end);
    assert_eq!(acted(&mut agent).await, second);
    ca.revoke(second, end);
    let third = acted(&mut agent).await;
    assert_ne!(third, second);
    ca.renew(&["web"]);
    let fourth = loop {
        let (serial, _) = agent.delivered("web").await;
        if serial != third {
            break serial;
        }
    };
    nothing_runs(&node, 3, "the next one is served, and not revoked").await;

    node.clock.shift(6 * HOUR + 120);
    assert_eq!(acted(&mut agent).await, fourth, "in the window");
    node.clock.shift(8 * HOUR);
    ca.renew(&["web"]);
    agent.delivered("web").await;
    nothing_runs(&node, 4, "after the window").await;
    // The next window comes after the end.
    node.clock.shift(21 * HOUR + 2400);
    acted(&mut agent).await;
    let runs = noted(&node, "runs");
    assert_eq!(
        runs[..4],
        [first, second, third, fourth].map(|serial| serial.to_string())
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_lists_wait_for_no_window() {
    let (ca, node) = (slow_ca().await, Node::new());
    let delivery = node.delivery("web").with_crl(true).with_window(Some(window_in(6)));
    let delivery = delivery.with_hooks(vec![noting(&node, "runs")]).unwrap();
    let mut agent = start(&node, &ca, &delivery, true);
    let serial = acted(&mut agent).await;
    let stream = ca.state.lists.stream().await;
    for chunk in chunks(&ca.state.pki, 7, 3) {
        stream.send(Ok(chunk)).await.unwrap();
    }
    assert_eq!(acted(&mut agent).await, serial);
    assert_eq!(noted(&node, "runs").len(), 2);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_that_succeeded_do_not_run_again_when_a_later_one_or_the_effect_fails() {
    let (ca, node) = (slow_ca().await, Node::new());
    let flag = node.temp.path().join("flag");
    let tries = node.temp.path().join("tries");
    let second = shell(&format!("echo >> {}; test -e {}", tries.display(), flag.display()));
    let hooks = vec![noting(&node, "runs"), second];
    let delivery = node.delivery("web").with_hooks(hooks.clone()).unwrap();
    let mut agent = start(&node, &ca, &delivery, true);
    let told = agent.problem("hook").await;
    assert!(told.starts_with("/bin/sh: exit status: 1"), "{told}");
    let tried = || fs::read_to_string(&tries).unwrap_or_default().len();
    until("three tries of the second hook", || tried() >= 3).await;
    assert!(agent.failures("hook") >= 2, "each of them is counted");
    fs::write(&flag, "").unwrap();
    acted(&mut agent).await;
    assert_eq!(noted(&node, "runs").len(), 1, "the first one has succeeded");

    // Nobody listens there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut effect = Effect::new(&free.to_string()).unwrap();
    effect.within = Duration::from_secs(1);
    let with_effect = delivery.with_effect(Some(effect));
    agent.handle.reload(vec![with_effect]).await.unwrap();
    let told = agent.problem("effect").await;
    assert!(told.contains("the hooks run again three times at most"), "{told}");
    // Two more looks, for which hooks do not run.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(noted(&node, "runs").len(), 2);
    assert!(agent.failures("effect") >= 1);
    let problem = agent.handle.status().await.unwrap().deliveries[0].problem.clone();
    assert!(problem.unwrap().starts_with("effect: "), "it goes on failing");
    // Whoever has mended it has them run again.
    let mended = node.delivery("web").with_hooks(hooks).unwrap();
    agent.handle.reload(vec![mended]).await.unwrap();
    acted(&mut agent).await;
    assert_eq!(noted(&node, "runs").len(), 3);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_that_hang_hold_up_the_hooks_of_no_other_delivery() {
    let node = Node::new();
    let stuck: Vec<String> = (0..2 * HOOKS_AT_ONCE_MAX).map(|n| format!("stuck-{n}")).collect();
    let names = stuck.iter().map(String::as_str).chain(["web"]);
    let ca = FakeCa::start(names.map(|name| entry(name, &format!("/{name}"))).collect()).await;
    let file = |name: &str| node.temp.path().join(name).display().to_string();
    let hangs = shell(&format!(
        "echo begun >> {0}; while ! test -e {1}; do sleep 0.1; done; echo ended >> {0}",
        file("stuck"),
        file("end")
    ));
    let hooked = |name: &str, hook: Hook| node.delivery(name).with_hooks(vec![hook]).unwrap();
    let mut deliveries: Vec<Delivery> = stuck.iter().map(|name| hooked(name, hangs.clone())).collect();
    deliveries.push(hooked("web", noting(&node, "runs")));
    let config = node.config(&[]).with_deliveries(deliveries).unwrap();
    let mut agent = node.start(config, Some(ca.token()));

    // More hang than may run at once, and each change of the healthy one is told all the same.
    let first = acted(&mut agent).await;
    until("all of them begin", || noted(&node, "stuck").len() == stuck.len()).await;
    ca.renew(&["web"]);
    let second = acted(&mut agent).await;
    assert_ne!(first, second);
    assert_eq!(noted(&node, "runs"), [first.to_string(), second.to_string()]);
    assert!(noted(&node, "stuck").iter().all(|line| line == "begun"));
    fs::write(file("end"), "").unwrap();
    until("they end", || noted(&node, "stuck").len() == 2 * stuck.len()).await;
    agent.stop().await;
}
