"""Record nights: their outcomes and what they keep, changes of upstreams, the page of all nights, notifications."""
