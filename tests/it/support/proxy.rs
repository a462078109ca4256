//! A TCP proxy that breaks connections on command: cut, reset, refused, silent in one direction, slow, cut after some
//! bytes, or cut at the very moment between a request and its reply; and that can be pointed at another server.
//!
//! It runs on a thread and a runtime of its own, so that a test that blocks does not hold up its traffic.

use super::port::Port;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Which way bytes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// What the test asks for at the moment.
#[derive(Debug, Clone)]
struct Order {
    /// Where new connections lead.
    upstream: SocketAddr,
    /// The proxy is gone, and its thread shall go too.
    over: bool,
    /// Connects are refused.
    cut: bool,
    /// Raised to close every open connection.
    generation: u64,
    /// They are closed by a reset, not in an orderly way.
    reset: bool,
    silent_to_server: bool,
    silent_to_client: bool,
    delay: Duration,
    /// The reply to the next request that contains these bytes is lost, and its connection with it.
    lose_reply_to: Option<Vec<u8>>,
    /// The next request that contains these bytes does not arrive, nor does what follows it on its connection.
    swallow: Option<Vec<u8>>,
    /// So many bytes still pass in this direction, then the connection that carried the last of them is closed.
    cut_after: Option<(Direction, usize)>,
}

impl Order {
    fn new(upstream: SocketAddr) -> Order {
        Order {
            upstream,
            over: false,
            cut: false,
            generation: 0,
            reset: false,
            silent_to_server: false,
            silent_to_client: false,
            delay: Duration::ZERO,
            lose_reply_to: None,
            swallow: None,
            cut_after: None,
        }
    }
}

/// A proxy in front of one server. It refuses and closes everything once it is dropped.
pub struct Proxy {
    port: Port,
    order: watch::Sender<Order>,
}

impl Proxy {
    pub fn start(upstream: SocketAddr) -> Proxy {
        let port = Port::lease();
        let order = watch::Sender::new(Order::new(upstream));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Bound before the thread runs: whoever has the proxy can connect to it.
        let listener = std::net::TcpListener::bind(port.address()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let seat = Seat { address: port.address(), order: order.clone() };
        std::thread::Builder::new()
            .name(format!("proxy to {upstream}"))
            .spawn(move || runtime.block_on(seat.serve(listener)))
            .unwrap();
        Proxy { port, order }
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn change(&self, change: impl FnOnce(&mut Order)) {
        self.order.send_modify(change);
    }

    /// Closes every connection and refuses new ones until [`Proxy::heal`].
    pub fn cut(&self) {
        self.change(|order| {
            order.cut = true;
            order.generation += 1;
        });
    }

    /// Takes every order back. Connections that were silent are closed: the bytes that they lost do not come back.
    pub fn heal(&self) {
        self.change(|order| {
            let generation = order.generation + u64::from(order.silent_to_server || order.silent_to_client);
            *order = Order { generation, ..Order::new(order.upstream) };
        });
    }

    /// Closes every open connection; new ones are welcome at once.
    pub fn drop_connections(&self) {
        self.change(|order| {
            order.reset = false;
            order.generation += 1;
        });
    }

    /// Resets every open connection: what was under way either way is thrown away. New ones are welcome at once.
    pub fn reset_connections(&self) {
        self.change(|order| {
            order.reset = true;
            order.generation += 1;
        });
    }

    /// Lets so many more bytes pass in this direction, on whichever connections, then closes the one in use: in the middle
    /// of a message, if the number is not a message's end.
    pub fn cut_after(&self, direction: Direction, bytes: usize) {
        self.change(|order| order.cut_after = Some((direction, bytes)));
    }

    /// Whether the connection that [`Proxy::cut_after`] was for has been closed.
    pub fn has_cut(&self) -> bool {
        self.order.borrow().cut_after.is_none()
    }

    /// Closes every connection and leads new ones to another server.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.change(|order| {
            order.upstream = upstream;
            order.generation += 1;
        });
    }

    /// Bytes in this direction vanish, connections stay open, until [`Proxy::heal`].
    pub fn black_hole(&self, direction: Direction) {
        self.change(|order| match direction {
            Direction::ToServer => order.silent_to_server = true,
            Direction::ToClient => order.silent_to_client = true,
        });
    }

    /// Holds everything back for this long, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.change(|order| order.delay = delay);
    }

    /// The next request reaches the server, and its connection is closed before the reply comes back.
    pub fn lose_next_reply(&self) {
        self.lose_reply_to(b"");
    }

    /// [`Proxy::lose_next_reply`] for a request that contains these bytes, e.g. `EVALSHA`.
    pub fn lose_reply_to(&self, request: &[u8]) {
        self.change(|order| order.lose_reply_to = Some(request.to_vec()));
    }

    /// The next request that contains these bytes does not reach the server, nor does what follows it on its connection, which stays
    /// open.
    pub fn swallow(&self, request: &[u8]) {
        self.change(|order| order.swallow = Some(request.to_vec()));
    }

    /// Whether a request was swallowed since it was asked for.
    pub fn has_swallowed(&self) -> bool {
        self.order.borrow().swallow.is_none()
    }

    /// Whether a reply was lost since it was asked for.
    pub fn lost_a_reply(&self) -> bool {
        self.order.borrow().lose_reply_to.is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|order| order.over = true);
    }
}

/// The thread's part.
#[derive(Clone)]
struct Seat {
    address: SocketAddr,
    order: watch::Sender<Order>,
}

impl Seat {
    async fn serve(self, first: std::net::TcpListener) {
        let mut order = self.order.subscribe();
        let mut listener = TcpListener::from_std(first).ok();
        loop {
            let now = order.borrow_and_update().clone();
            if now.over {
                return;
            }
            if now.cut {
                // A closed listener refuses; one that merely does not accept would let the kernel accept for it.
                listener = None;
            } else if listener.is_none() {
                listener = TcpListener::bind(self.address).await.ok();
            }
            tokio::select! {
                _ = order.changed() => {}
                Ok((client, _)) = accept(listener.as_ref()) => {
                    tokio::spawn(self.clone().connection(client));
                }
            }
        }
    }

    async fn connection(self, mut client: TcpStream) {
        let mut order = self.order.subscribe();
        let (born, upstream) = {
            let now = order.borrow_and_update();
            (now.generation, now.upstream)
        };
        let Ok(mut server) = TcpStream::connect(upstream).await else { return };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            // Set by the request's direction, obeyed by the reply's: close instead of answering.
            let lose = watch::Sender::new(false);
            let requests = self.carry(born, Direction::ToServer, from_client, to_server, &lose);
            let replies = self.carry(born, Direction::ToClient, from_server, to_client, &lose);
            tokio::select! {
                () = requests => {}
                () = replies => {}
                _ = order.wait_for(|order| order.generation != born) => {}
            }
        }
        let is_reset = {
            let now = self.order.borrow();
            now.reset && now.generation != born
        };
        if is_reset {
            let _ = client.set_zero_linger().and(server.set_zero_linger());
        }
    }

    /// Carries bytes until either end closes, a reply is to be lost, or enough have passed.
    async fn carry(
        &self,
        born: u64,
        direction: Direction,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        lose: &watch::Sender<bool>,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        let mut swallows = false;
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let bytes = &buffer[..count];
            let order = self.order.borrow().clone();
            // Also when the thread has not come round to closing us: nothing passes once `cut` has returned.
            if order.generation != born || direction == Direction::ToClient && *lose.borrow() {
                return;
            }
            if let (Direction::ToServer, Some(needle)) = (direction, &order.lose_reply_to)
                && (needle.is_empty() || bytes.windows(needle.len()).any(|window| window == needle))
            {
                lose.send_replace(true);
                self.order.send_modify(|order| order.lose_reply_to = None);
            }
            if let (Direction::ToServer, Some(needle)) = (direction, &order.swallow)
                && bytes.windows(needle.len()).any(|window| window == needle)
            {
                swallows = true;
                self.order.send_modify(|order| order.swallow = None);
            }
            let silent = swallows
                || match direction {
                    Direction::ToServer => order.silent_to_server,
                    Direction::ToClient => order.silent_to_client,
                };
            if silent {
                continue;
            }
            if !order.delay.is_zero() {
                tokio::time::sleep(order.delay).await;
            }
            let passes = match order.cut_after {
                Some((at, left)) if at == direction => left.min(count),
                _ => count,
            };
            if to.write_all(&bytes[..passes]).await.is_err() {
                return;
            }
            if let Some((at, left)) = order.cut_after.filter(|(at, _)| *at == direction) {
                let rest = (left > count).then(|| (at, left - count));
                self.order.send_modify(|order| order.cut_after = rest);
                if rest.is_none() {
                    return;
                }
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}
