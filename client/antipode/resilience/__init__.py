"""What a call does when a server fails: bounded tries, other servers, no token twice."""
