#!/bin/sh
# The control CLI beside the units, as /usr/local/bin/worldloop: `sudo -u worldloop worldloop status`.
set -ae
. /etc/worldloop/operator.env
cd /srv/worldloop # the caller's directory may be closed to this user; paths count from here
exec /opt/worldloop/bin/worldloop "$@"
