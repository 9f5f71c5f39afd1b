#!/bin/sh
# Makes the packages for Debian, with dpkg-deb alone: called by `make deb`, which has installed the extension into
# the folder extension of the one that is named, and says in variables which versions there are.
set -eu
umask 022

folder=$1
revision=$VERSION-1
home=/opt/pg-amqp
program=$folder/program
site=$program$home/lib/python$PYTHON_VERSION/site-packages

# control FOLDER PACKAGE ARCHITECTURE DEPENDS SUMMARY: what is between the lines of standard input is the description.
control() {
    mkdir -p "$1/DEBIAN" "$1/usr/share/doc/$2"
    cp LICENSE "$1/usr/share/doc/$2/copyright"
    {
        echo "Package: $2"
        echo "Version: $revision"
        echo "Architecture: $3"
        echo "Maintainer: pg_amqp_py contributors <root@localhost>"
        echo "Section: database"
        echo "Priority: optional"
        echo "Installed-Size: $(du -sk --apparent-size "$1" | cut -f1)"
        echo "Depends: $4"
        echo "Description: $5"
        sed 's/^/ /'
    } >"$1/DEBIAN/control"
}

build() {
    dpkg-deb --root-owner-group --build "$1" "$folder" >/dev/null
}

# ---- The extension ----

control "$folder/extension" "postgresql-$MAJOR-pg-amqp-py" all \
    "postgresql-$MAJOR, postgresql-plpython3-$MAJOR" \
    "publish to RabbitMQ exactly with the transaction" <<END
The extension pg_amqp_py for PostgreSQL $MAJOR: CREATE EXTENSION pg_amqp_py CASCADE.
END
build "$folder/extension"

# ---- The program pg-amqp: a virtual environment, with its own pip left out ----

"$PYTHON" -m venv --without-pip "$program$home"
# shellcheck disable=SC2086 # a list of arguments
PIP_ROOT_USER_ACTION=ignore "$PYTHON" -m pip --python "$program$home/bin/python3" install --quiet \
    --disable-pip-version-check --no-compile $PIP_ARGS '.[gateway,mqtt]'
# None of what was here when it was made.
find "$program$home/bin" -type f ! -name pg-amqp -delete
rm -rf "$program$home/include"
sed -i "1s,.*,#!$home/bin/python3," "$program$home/bin/pg-amqp"
sed -i '/^command = /d' "$program$home/pyvenv.cfg"
rm -f "$site"/pg_amqp_py-*.dist-info/direct_url.json
"$PYTHON" -m compileall -q --invalidation-mode unchecked-hash -s "$program" -p / "$site"
mkdir -p "$program/usr/bin" "$program/usr/lib/systemd/system" "$program/DEBIAN"
ln -s "$home/bin/pg-amqp" "$program/usr/bin/pg-amqp"
cp packaging/pg-amqp.service packaging/pg-amqp-gateway.service "$program/usr/lib/systemd/system"
# Nothing is enabled or started: where the database is, an administrator says first.
for script in postinst postrm; do
    printf '#!/bin/sh\nset -e\n[ ! -d /run/systemd/system ] || systemctl daemon-reload\n' >"$program/DEBIAN/$script"
    chmod 755 "$program/DEBIAN/$script"
done
chmod -R u=rwX,go=rX "$program$home"
control "$program" pg-amqp "$(dpkg --print-architecture)" "python$PYTHON_VERSION, ca-certificates" \
    "carry messages between PostgreSQL and RabbitMQ" <<END
The program pg-amqp: relay, consume, listen, gateway, check and tail. In $home,
with the Python packages that it needs, and units for systemd that nothing starts.
END
build "$program"

rm -rf "$folder/extension" "$program"
echo "made:"
ls "$folder"/*.deb
