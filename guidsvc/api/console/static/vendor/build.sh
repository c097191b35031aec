#!/usr/bin/env bash
# Make the modules of this folder from the packages of npm: bash build.sh
set -euo pipefail
cd "$(dirname "$0")"

packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
npm install --prefix "$packages" --ignore-scripts --no-audit --no-fund --silent \
    preact@11.2.0 htm@3.1.1 uplot@1.6.32 esbuild@0.28.2

for module in preact uplot; do
    cp "$module.entry.js" "$packages"
    "$packages/node_modules/.bin/esbuild" "$packages/$module.entry.js" \
        --bundle --format=esm --minify --legal-comments=none --outfile="$module.js" --log-level=warning
done
cp "$packages/node_modules/uplot/dist/uPlot.min.css" uplot.css
for package in preact htm uplot; do
    cp "$packages/node_modules/$package/LICENSE" "LICENSE.$package"
done
sha256sum LICENSE.* *.js *.css >SHA256SUMS
